"""Weighted sampling without replacement, as a score."""

import torch
from torch import Tensor


def perturbed(log_weights: Tensor, generator: torch.Generator | None) -> Tensor:
    """`log_weights` [B] plus Gumbel noise: its k highest are drawn one after the other with probability ∝ weight.

    The Gumbel top-k trick (Kool et al. 2019): the same distribution as drawing without replacement, with fixed shapes.
    An infinite weight is drawn for sure, a zero weight last.
    """
    uniform = torch.rand(len(log_weights), generator=generator, device=log_weights.device)
    tiny = torch.finfo(uniform.dtype).tiny
    return log_weights - (-uniform.clamp(min=tiny).log()).log()
