"""The norm of the error: what the authors' code ranks by where the paper describes gradient matching."""

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from seladv.selection.topk import drawn, of_logits


@of_logits
def el2n(logits: Tensor, y: Tensor, generator: torch.Generator | None) -> Tensor:
    """L2 norm of softmax − one-hot [B], float32 (EL2N; Paul et al. 2021, definition 2.2)."""
    return (logits.float().softmax(dim=1) - one_hot(y, logits.shape[1])).norm(dim=1)


@of_logits
def el2n_sampled(logits: Tensor, y: Tensor, generator: torch.Generator | None) -> Tensor:
    """The authors' coded "gradient matching": k drawn with probability ∝ EL2N [B]."""
    return drawn(el2n.function(logits, y, generator).log(), generator)
