"""The authors' coded "gradient matching": samples drawn with probability proportional to their EL2N."""

import torch
from torch import Tensor, nn

from seladv.criteria import el2n
from seladv.gumbel import perturbed

PASSES = 1


def score(model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator | None) -> Tensor:
    """Whose k highest are a draw of k without replacement, with probability ∝ EL2N [B]. One forward pass."""
    return perturbed(el2n.score(model, x, y, generator).log(), generator)
