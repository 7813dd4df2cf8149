"""The gradient that attack and scoring follow, without the factor that vanishes where a network is confident."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from seladv import guard

Uphill = Callable[[Tensor, Tensor], Tensor]  # (logits, y) → the gradient [B, classes] at the logits that is followed
Loss = Callable[[Tensor, Tensor], Tensor]  # (logits, y) → one value for each image [B]

TINY = torch.finfo(torch.float32).tiny


def direction(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy's gradient at the logits [B, classes], softmax − one-hot, divided by each sample's 1 − p_y.

    The factor 1 − p_y vanishes in rounding where the network is confident. Without it the true class has −1 and the
    others a distribution, so that the gradient at the image keeps its direction at any confidence. float32, or float64
    for float64 logits; detached.
    """
    truth, z = y[:, None], logits.detach().to(torch.promote_types(logits.dtype, torch.float32))
    return z.scatter(1, truth, -torch.inf).softmax(dim=1).scatter(1, truth, -1)


def log_error(logits: Tensor, y: Tensor) -> Tensor:
    """log(1 − p_y) [B], exact also where p_y rounds to 1: the factor that `direction` leaves out."""
    others = logits.scatter(1, y[:, None], -torch.inf)
    return others.logsumexp(dim=1) - logits.logsumexp(dim=1)


def direction_of(logits: Tensor, y: Tensor, *, loss: Loss) -> Tensor:
    """The gradient of another `loss` at the logits [B, classes], each sample's divided by its largest entry.

    Raises:
        ValueError: the loss does not give one value for each image, or none of them depends on the logits.
    """
    with torch.enable_grad():
        z = logits.detach().to(torch.promote_types(logits.dtype, torch.float32)).requires_grad_()
        values = loss(z, y)
        gradient = None
        if isinstance(values, Tensor) and values.shape == y.shape and values.requires_grad:
            (gradient,) = torch.autograd.grad(values.sum(), z, allow_unused=True)
    if gradient is None:
        shown = guard.kind(values)
        raise ValueError(f"pgd: the loss is {shown}; give one value for each image [{len(y)}], made of the logits")
    return gradient / gradient.abs().amax(dim=1, keepdim=True).clamp(min=TINY)


def input_gradient(
    model: nn.Module, x: Tensor, y: Tensor, *, uphill: Uphill = direction, known: bool = False
) -> Tensor:
    """Each image's gradient of the loss [B, C, H, W], up to a positive factor for each image.

    Args and shapes as for `seladv.attack.pgd`. The network runs in the mode that it is in.

    Args:
        uphill: the gradient at the logits; the default is cross-entropy's.
        known: the labels have been checked against the number of logits.

    Raises:
        ValueError: the network returns no logits, a label is no class, or the logits do not depend on the images.
    """
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        logits = guard.logits("pgd", model(x), x, None if known else y)
    gradient = None
    if logits.requires_grad:
        # Only the images' gradient: `loss.backward()` would compute every weight's as well.
        (gradient,) = torch.autograd.grad(logits, x, uphill(logits, y).to(logits.dtype), allow_unused=True)
    if gradient is None:
        raise ValueError(
            "pgd: no gradient leads from the logits to the images; look for detach, no_grad or numpy in the model"
        )
    return gradient
