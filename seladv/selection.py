"""Which samples of a batch are worth attacking: the k that score highest.

A new rule is a function here with the signature of the others, and its name in `SELECTORS`.
"""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import LongTensor, Tensor, nn

from seladv.gradients import last_layer_cosine
from seladv.modes import eval_mode

Score = Callable[[nn.Module, Tensor, Tensor, torch.Generator | None], Tensor]


def random(model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator | None) -> Tensor:
    """Chance [B]: the control that a criterion must beat at equal cost. No pass through the network."""
    return torch.rand(len(x), generator=generator, device=x.device)


def margin(model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator | None) -> Tensor:
    """Nearness to the decision boundary [B]: minus the difference of the two largest logits. One forward pass."""
    first, second = model(x).float().topk(2, dim=1).values.unbind(dim=1)
    return second - first


def gradmatch(model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator | None) -> Tensor:
    """Alignment with the batch [B]: cosine of a sample's gradient with the mean gradient. One forward pass.

    The gradient is the last layer's, exact for that layer.
    """
    return last_layer_cosine(model, x, y)


class Selector(Protocol):
    """Picks the samples of a batch to attack."""

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, k: int, *, generator: torch.Generator | None = None
    ) -> LongTensor:
        """Indices [k] into the batch, best first; `model` is scored in eval mode and left as it was.

        Raises:
            ValueError: k is not between 0 and B.
        """


def highest(score: Score) -> Selector:
    """The selector that takes the k samples with the highest `score`."""

    def select(
        model: nn.Module, x: Tensor, y: Tensor, k: int, *, generator: torch.Generator | None = None
    ) -> LongTensor:
        if not 0 <= k <= len(x):
            raise ValueError(f"{score.__name__}: cannot select {k} of {len(x)} samples")
        with eval_mode(model), torch.no_grad():
            scores = score(model, x, y, generator)
        return scores.topk(k).indices  # type: ignore[return-value]

    return select


SCORES: dict[str, Score] = {score.__name__: score for score in (random, margin, gradmatch)}
SELECTORS: dict[str, Selector] = {name: highest(score) for name, score in SCORES.items()}
