"""Gradient matching on the last layer alone: the cheap proxy of the paper's second criterion."""

import torch
from torch import Tensor, nn

from seladv.gradients import last_layer_cosine

PASSES = 1


def score(model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator | None) -> Tensor:
    """Cosine of a sample's last-layer gradient with the batch's mean [B], exact for that layer. One forward pass."""
    return last_layer_cosine(model, x, y)
