"""The paper's first criterion: nearness to the decision boundary."""

import torch
from torch import Tensor, nn

PASSES = 1


def of_logits(logits: Tensor, y: Tensor) -> Tensor:
    """Minus the difference of the two largest logits [B], float32: high near the boundary."""
    first, second = logits.float().topk(2, dim=1).values.unbind(dim=1)
    return second - first


def score(model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator | None) -> Tensor:
    """`of_logits` of the clean batch [B]. One forward pass."""
    return of_logits(model(x), y)
