"""Random selection: the control that every criterion has to beat at equal cost."""

import torch
from torch import Tensor, nn


def random(model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator | None) -> Tensor:
    """Uniform scores [B]. No pass through the network."""
    return torch.rand(len(x), generator=generator, device=x.device)
