"""What one update minimises."""

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

CLEAN_WEIGHT = 0.2  # in the authors' code


def mixed(model: nn.Module, x: Tensor, y: Tensor, chosen: Tensor, x_adv: Tensor) -> Tensor:
    """Mean cross-entropy over the batch, adversarial where chosen and clean elsewhere (paper, step 4).

    Args:
        model: in train mode; run once.
        x, y: clean images [B, C, H, W] and true classes [B].
        chosen, x_adv: indices [k] of the attacked samples, and their adversarial images [k, C, H, W].
    """
    return cross_entropy(model(x.index_copy(0, chosen, x_adv)).float(), y)


def whole_batch(model: nn.Module, x: Tensor, y: Tensor, chosen: Tensor, x_adv: Tensor) -> Tensor:
    """The authors' coded objective: mean over the adversarial samples + 0.2 × mean over the whole clean batch.

    Arguments as in `mixed`; the network runs twice.
    """
    clean = CLEAN_WEIGHT * cross_entropy(model(x).float(), y)
    return cross_entropy(model(x_adv).float(), y[chosen]) + clean if len(chosen) else clean
