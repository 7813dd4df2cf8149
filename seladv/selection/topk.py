"""From scores to the k samples that are attacked."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import LongTensor, Tensor, nn

from seladv import guard
from seladv.attack import eval_mode

Score = Callable[[nn.Module, Tensor, Tensor, torch.Generator | None], Tensor]
LogitScore = Callable[[Tensor, Tensor, torch.Generator | None], Tensor]


class Selector(Protocol):
    """Picks the samples of a batch to attack."""

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, k: int, generator: torch.Generator | None = None
    ) -> LongTensor:
        """Indices [k] into the batch, best first; `model` is scored in eval mode and left as it was.

        Raises:
            ValueError: k is no integer between 0 and B, or images, labels or the network's output are not as
                `seladv.guard` has them.
        """


def highest(score: Score) -> Selector:
    """The selector that takes the k samples with the highest `score`: [B], made without gradients."""

    @torch.inference_mode(False)
    def select(model: nn.Module, x: Tensor, y: Tensor, k: int, generator: torch.Generator | None = None) -> LongTensor:
        x, y = guard.batch("select", model, x, y, generator)
        k = guard.integer("select", "k", k)
        if not 0 <= k <= len(x):
            raise ValueError(f"cannot select {k} of {len(x)} samples: give a k from 0 to {len(x)}")
        if len(x) == 0:
            return y  # type: ignore[return-value]
        with eval_mode(model), torch.no_grad():
            scores = score(guard.local(model), x, y, generator)
        if not isinstance(scores, Tensor) or scores.shape != y.shape or scores.dtype == torch.bool:
            shown = guard.kind(scores)
            raise ValueError(f"select: the scores are {shown}; one number for each image, [{len(x)}], is needed")
        return scores.topk(k).indices  # type: ignore[return-value]

    return select


class of_logits:
    """A criterion that needs only the logits [B, classes] and the classes [B]: one forward pass.

    Calling it scores images with a network; `.function` scores logits that are already there.
    """

    def __init__(self, function: LogitScore):
        self.function = function
        self.__doc__ = function.__doc__

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator | None) -> Tensor:
        return self.function(guard.logits("select", model(x), x, y), y, generator)


def drawn(log_weights: Tensor, generator: torch.Generator | None) -> Tensor:
    """`log_weights` [B] plus Gumbel noise: its k highest are a draw without replacement with probability ∝ weight.

    The Gumbel top-k trick (Kool et al. 2019). An infinite weight is drawn for certain, a zero weight last.
    """
    uniform = torch.rand(len(log_weights), generator=generator, device=log_weights.device)
    tiny = torch.finfo(uniform.dtype).tiny
    return log_weights - (-uniform.clamp(min=tiny).log()).log()
