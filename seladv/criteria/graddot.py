"""Gradient matching without its normalisation, to show what the cosine adds."""

import torch
from torch import Tensor, nn

from seladv import ghost

PASSES = 3  # forward, backward to the activations, and as much again for the products


def score(model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator | None) -> Tensor:
    """Dot product of a sample's gradient, over all parameters, with the batch's mean [B]. No norms are computed."""
    return ghost.dot(model, x, y)
