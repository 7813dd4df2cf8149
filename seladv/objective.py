"""What one update minimises."""

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

Loss = tuple[Tensor, Tensor]
CLEAN_WEIGHT = 0.2  # in the authors' code


def mixed(model: nn.Module, x: Tensor, y: Tensor, chosen: Tensor, x_adv: Tensor) -> Loss:
    """Mean cross-entropy over the batch, adversarial where chosen and clean elsewhere (paper, step 4).

    Args:
        model: in train mode; run once.
        x, y: clean images [B, C, H, W] and true classes [B].
        chosen, x_adv: indices [k] of the attacked samples, and their adversarial images [k, C, H, W].

    Returns:
        The loss, and the batch's logits [B, classes] that it came from.
    """
    logits = model(x.index_copy(0, chosen, x_adv))
    return cross_entropy(logits.float(), y), logits


def whole_batch(model: nn.Module, x: Tensor, y: Tensor, chosen: Tensor, x_adv: Tensor) -> Loss:
    """The authors' coded objective: mean over the adversarial samples + 0.2 × mean over the whole clean batch.

    Arguments and result as in `mixed`, the logits being the clean batch's; the network runs twice.
    """
    logits = model(x)
    loss = CLEAN_WEIGHT * cross_entropy(logits.float(), y)
    return (cross_entropy(model(x_adv).float(), y[chosen]) + loss if len(chosen) else loss), logits
