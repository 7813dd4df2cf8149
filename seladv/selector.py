"""From scores to the k samples that are attacked."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import LongTensor, Tensor, nn

from seladv.modes import eval_mode

Score = Callable[[nn.Module, Tensor, Tensor, torch.Generator | None], Tensor]


class Selector(Protocol):
    """Picks the samples of a batch to attack."""

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, k: int, *, generator: torch.Generator | None = None
    ) -> LongTensor:
        """Indices [k] into the batch, best first; `model` is scored in eval mode and left as it was.

        Raises:
            ValueError: k is not between 0 and B, or x and y are not equally many.
        """


def highest(score: Score) -> Selector:
    """The selector that takes the k samples with the highest `score`."""

    def select(
        model: nn.Module, x: Tensor, y: Tensor, k: int, *, generator: torch.Generator | None = None
    ) -> LongTensor:
        if not 0 <= k <= len(x):
            raise ValueError(f"cannot select {k} of {len(x)} samples: give a k from 0 to {len(x)}")
        if len(y) != len(x):
            raise ValueError(f"cannot select of {len(x)} samples with {len(y)} classes: give a class for every sample")
        with eval_mode(model), torch.no_grad():
            scores = score(model, x, y, generator)
        return scores.topk(k).indices  # type: ignore[return-value]

    return select
