"""The opposite of the margin rule: a control that some coreset studies find to be the better choice."""

import torch
from torch import Tensor, nn

from seladv.criteria import margin

PASSES = 1


def of_logits(logits: Tensor, y: Tensor) -> Tensor:
    """Distance from the decision boundary [B]: the difference of the two largest logits."""
    return -margin.of_logits(logits, y)


def score(model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator | None) -> Tensor:
    """`of_logits` of the clean batch [B]. One forward pass."""
    return of_logits(model(x), y)
