"""Projected gradient descent in the ℓ∞ ball."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Put `model` in eval mode inside the block; every submodule is back in its own former mode after it.

    Scoring and attacking must not move batch-norm statistics, and in train mode a per-sample score would
    depend on the rest of the batch. Modes are restored one by one: a submodule that its owner had frozen
    stays frozen, which `model.train()` would undo.
    """
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def direction(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy's gradient at the logits [B, classes], softmax − one-hot, divided by each sample's 1 − p_y.

    The factor 1 − p_y vanishes in rounding where the network is confident. Without it the true class has −1 and the
    others a distribution, so that the gradient at the image keeps its direction at any confidence. float32, or float64
    for float64 logits; detached.
    """
    truth, z = y[:, None], logits.detach().to(torch.promote_types(logits.dtype, torch.float32))
    return z.scatter(1, truth, -torch.inf).softmax(dim=1).scatter(1, truth, -1)


def input_gradient(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Each image's gradient of the cross-entropy [B, C, H, W], up to a positive factor for each image (`direction`).

    Args and shapes as for `pgd`. The network runs in the mode that it is in.
    """
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        logits = model(x)
    # Only the images' gradient: `loss.backward()` would compute every weight's as well.
    (gradient,) = torch.autograd.grad(logits, x, direction(logits, y).to(logits.dtype))
    return gradient


def ascend(
    model: nn.Module, x_adv: Tensor, y: Tensor, lower: Tensor, upper: Tensor, *, step_size: float, steps: int
) -> Tensor:
    """`steps` sign steps from `x_adv`, each projected into [lower, upper] (Madry et al. 2018, eq. 2).

    Args and shapes as for `pgd`; `lower` and `upper` are shaped as the images. The network runs in the mode it is in.
    """
    for _ in range(steps):
        x_adv = input_gradient(model, x_adv, y).sign().mul_(step_size).add_(x_adv).clamp_(lower, upper)
    return x_adv


def pgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    step_size: float,
    steps: int,
    start: float | None = None,
    generator: torch.Generator | None = None,
    ascend: Callable[..., Tensor] = ascend,
) -> Tensor:
    """Adversarial examples for `x`: uniform random start, sign steps, projection (Madry et al. 2018, eq. 2).

    Args:
        model: maps images [B, C, H, W] in [0, 1] to logits [B, classes]; attacked in eval mode, left as it was.
        x: clean images [B, C, H, W] in [0, 1], float32.
        y: true classes [B], int64.
        eps: radius of the ℓ∞ ball, in units of the [0, 1] range.
        step_size: length of one step, same units.
        steps: gradient steps, each one forward pass and one backward pass to the input.
        start: radius of the uniform random start, same units; `eps` if not given, 0 starts at `x`.
        generator: source of the random start; the default generator if not given.
        ascend: takes the steps; `seladv.frozen.Graphed` takes the same ones as a CUDA graph.

    Returns:
        Images [B, C, H, W], float32, within eps of `x` and in [0, 1]; detached.

    Raises:
        ValueError: negative eps, step_size, steps or start, or images outside [0, 1].
    """
    start = eps if start is None else start
    if not (eps >= 0 and step_size >= 0 and steps >= 0 and start >= 0):
        raise ValueError(f"pgd: eps={eps}, step_size={step_size}, steps={steps}, start={start}: none may be negative")
    if len(x) == 0:
        return x.clone()
    darkest, brightest = x.aminmax()
    if not (darkest >= 0 and brightest <= 1):
        raise ValueError(
            f"pgd: images must lie in [0, 1], found [{darkest:.3g}, {brightest:.3g}]; "
            "normalise inside the model, not before it"
        )
    x = x.detach()
    lower, upper = (x - eps).clamp_(min=0), (x + eps).clamp_(max=1)
    noise = torch.empty_like(x).uniform_(-start, start, generator=generator) if start else torch.zeros_like(x)
    x_adv = noise.add_(x).clamp_(lower, upper)
    with eval_mode(model):
        return ascend(model, x_adv, y, lower, upper, step_size=step_size, steps=steps)
