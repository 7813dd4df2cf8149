"""The paper's second criterion: the gradient over all parameters, exactly."""

import torch
from torch import Tensor, nn

from seladv import ghost

PASSES = 3  # forward, backward to the activations, and as much again for the products


def score(model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator | None) -> Tensor:
    """Cosine of a sample's gradient with the batch's mean [B]. One forward and backward pass, and the products."""
    return ghost.cosine(model, x, y)
