"""The size of the error: what the authors' code ranks by where the paper says gradient matching."""

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

PASSES = 1


def of_logits(logits: Tensor, y: Tensor) -> Tensor:
    """L2 norm of softmax − one-hot [B], float32 (EL2N; Paul et al. 2021, definition 2.2)."""
    return (logits.float().softmax(dim=1) - one_hot(y, logits.shape[1])).norm(dim=1)


def score(model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator | None) -> Tensor:
    """`of_logits` of the clean batch [B]. One forward pass."""
    return of_logits(model(x), y)
