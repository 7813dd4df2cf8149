"""The paper's first criterion, distance to the decision boundary, and its variants."""

import torch
from torch import Tensor

from seladv.selection.topk import drawn, of_logits


def _margin(logits: Tensor) -> Tensor:
    first, second = logits.float().topk(2, dim=1).values.unbind(dim=1)
    return first - second


@of_logits
def margin(logits: Tensor, y: Tensor, generator: torch.Generator | None) -> Tensor:
    """Minus the difference between the two largest logits [B], float32: high near the boundary."""
    return -_margin(logits)


@of_logits
def easy(logits: Tensor, y: Tensor, generator: torch.Generator | None) -> Tensor:
    """The difference between the two largest logits [B]: the opposite rule, which some coreset studies prefer."""
    return _margin(logits)


@of_logits
def margin_sampled(logits: Tensor, y: Tensor, generator: torch.Generator | None) -> Tensor:
    """The rule in the authors' code: k drawn with probability ∝ 1 / |z_y − max z_other| [B]."""
    truth, logits = y[:, None], logits.float()
    margin = logits.gather(1, truth)[:, 0] - logits.scatter(1, truth, -torch.inf).amax(dim=1)
    return drawn(-margin.abs().log(), generator)
