"""The authors' coded margin rule: samples drawn with probability proportional to 1 / |true-class margin|."""

import torch
from torch import Tensor, nn

from seladv.gumbel import perturbed

PASSES = 1


def score(model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator | None) -> Tensor:
    """Whose k highest are a draw of k without replacement, with probability ∝ 1 / |z_y − max z_other| [B].

    One forward pass.
    """
    logits = model(x).float()
    truth = y[:, None]
    margin = logits.gather(1, truth)[:, 0] - logits.scatter(1, truth, -torch.inf).amax(dim=1)
    return perturbed(-margin.abs().log(), generator)
