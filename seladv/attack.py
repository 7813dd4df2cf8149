"""Projected gradient descent in the ℓ∞ or ℓ2 ball."""

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from seladv import guard
from seladv.gradient import TINY, Loss, Uphill, direction, direction_of, input_gradient

RADIUS = {"linf": 8 / 255, "l2": 1.0}  # eps by default, as in torchattacks


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Put `model` in eval mode inside the block; every submodule is back in its own former mode after it.

    Scoring and attacking must not move batch-norm statistics, and in train mode a per-sample score would depend on the
    rest of the batch. The network's own `eval()` and `train()` are called, which may do more than set flags: merge
    weights, keep a backbone frozen. A submodule that its owner had put in another mode gets it back.
    """
    modes = [(module, module.training) for module in model.modules()]
    if not any(training for _, training in modes):
        yield
        return
    try:
        model.eval()
        yield
    finally:
        model.train(modes[0][1])
        for module, training in modes:  # outer ones first: they set the mode of those inside
            if module.training != training:
                module.train(training)
        for module, training in modes:
            if module.training != training:  # its own `train()` keeps another mode than its owner had set
                module.training = training


def _climb(
    model: nn.Module, x_adv: Tensor, y: Tensor, *, move: Callable[[Tensor, Tensor], Tensor], steps: int, uphill: Uphill
) -> Tensor:
    """`steps` times `x_adv = move(x_adv, its gradient)`. Warns of a first gradient that leads nowhere."""
    size = None
    for _ in range(steps):
        gradient = input_gradient(model, x_adv, y, uphill=uphill, known=size is not None)
        size = gradient.abs().amax() if size is None else size
        x_adv = move(x_adv, gradient)
    if size is not None and not guard.capturing(size) and not size > 0:  # NaN is not
        what = "is not a number (NaN) in places" if size.isnan() else "is zero for every image"
        warnings.warn(f"pgd: the loss's gradient {what}; pixels without one stay where they started", stacklevel=2)
    return x_adv


def ascend(
    model: nn.Module,
    x_adv: Tensor,
    y: Tensor,
    lower: Tensor,
    upper: Tensor,
    *,
    step_size: float,
    steps: int,
    uphill: Uphill = direction,
) -> Tensor:
    """`steps` sign steps from `x_adv`, each projected into [lower, upper] (Madry et al. 2018, eq. 2).

    Args and shapes as for `pgd` and `input_gradient`; `lower` and `upper` are shaped as the images. The network runs in
    the mode it is in.
    """

    def move(x_adv: Tensor, gradient: Tensor) -> Tensor:
        return x_adv.add(gradient.sign(), alpha=step_size).clamp_(lower, upper)

    return _climb(model, x_adv, y, move=move, steps=steps, uphill=uphill)


PLAIN = ascend


def _ascend_l2(
    model: nn.Module, x_adv: Tensor, y: Tensor, x: Tensor, eps: float, *, step_size: float, steps: int, uphill: Uphill
) -> Tensor:
    """`steps` steps of ℓ2 length `step_size` from `x_adv`, each projected into the ball around `x` and into [0, 1]."""

    def move(x_adv: Tensor, gradient: Tensor) -> Tensor:
        flat = gradient.nan_to_num(0, 0, 0).flatten(1)
        flat = normalize(flat / flat.abs().amax(dim=1, keepdim=True).clamp(min=TINY), dim=1)  # squares may underflow
        return _into_ball(x_adv + step_size * flat.view_as(x_adv), x, eps)

    return _climb(model, x_adv, y, move=move, steps=steps, uphill=uphill)


def _into_ball(x_adv: Tensor, x: Tensor, eps: float) -> Tensor:
    """The ℓ2 ball around `x`, and then [0, 1], which takes no pixel further from its place in `x`."""
    delta = (x_adv - x).flatten(1)
    return (x + delta.renorm(2, 0, eps).view_as(x)).clamp(0, 1)


def _uniform_in_ball(x: Tensor, radius: float, generator: torch.Generator | None) -> Tensor:
    """Noise shaped as `x`, uniform in the ℓ2 ball: a random direction, and a length whose power of D is uniform."""
    flat = normalize(torch.empty_like(x).normal_(generator=generator).flatten(1), dim=1)
    lengths = torch.rand(len(x), 1, generator=generator, dtype=x.dtype, device=x.device) ** (1 / flat.shape[1])
    return (radius * lengths * flat).view_as(x)


def _rounded(x_adv: Tensor, x: Tensor) -> Tensor:
    """`x_adv` in the dtype of `x`, where rounding moves no pixel away from `x`."""
    near = x_adv.to(x.dtype)
    beyond = (near.float() - x.float()).abs() > (x_adv - x.float()).abs()
    return near.where(~beyond, near.nextafter(x))


def _settings(x: Tensor, norm: str, **given: Any) -> tuple[float, float, int, float]:
    """eps, step_size, steps and start, with the defaults of `pgd` where one is None."""
    if not isinstance(norm, str) or norm not in RADIUS:
        raise ValueError(f"pgd: norm={norm!r}; choose one of {', '.join(RADIUS)}")
    given["eps"] = RADIUS[norm] if given["eps"] is None else guard.number("pgd", "eps", given["eps"])
    given["step_size"] = given["eps"] / 4 if given["step_size"] is None else given["step_size"]
    given["start"] = given["eps"] if given["start"] is None else given["start"]
    given["steps"] = guard.integer("pgd", "steps", given["steps"])
    for name in ("step_size", "start"):
        given[name] = guard.number("pgd", name, given[name])
    if min(given.values()) < 0:
        shown = ", ".join(f"{name}={value}" for name, value in given.items())
        raise ValueError(f"pgd: {shown}: none may be negative")
    most = 1 if norm == "linf" else x[0].numel() ** 0.5 if len(x) else math.inf  # no two images are further apart
    for name in ("eps", "start"):
        if given[name] > most:
            write = f"write {given[name]:g}/255" if given[name] <= 255 * most else f"{most:g} is the most"
            raise ValueError(f"pgd: {name}={given[name]:.9g}: images lie in [0, 1]; {write}")
    return given["eps"], given["step_size"], given["steps"], given["start"]


@torch.inference_mode(False)
def pgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float | None = None,
    step_size: float | None = None,
    steps: int = 10,
    start: float | None = None,
    norm: str = "linf",
    loss: Loss | None = None,
    targeted: bool = False,
    generator: torch.Generator | None = None,
    ascend: Callable[..., Tensor] = ascend,
) -> Tensor:
    """Adversarial examples for `x`: uniform random start, steps uphill, projection (Madry et al. 2018, eq. 2).

    Args:
        model: maps images [B, C, H, W] in [0, 1] to logits [B, classes]; attacked in eval mode, left as it was.
        x: clean images [B, C, H, W] in [0, 1], floating-point; rounding beyond it, up to 1e-6, is clamped.
        y: true classes [B], integers; [B, 1] is taken as [B].
        eps: radius of the ball, in units of the [0, 1] range; if not given, 8/255 in ℓ∞ and 1 in ℓ2.
        step_size: length of one step, same units and norm; eps / 4 if not given.
        steps: gradient steps, each one forward pass and one backward pass to the input.
        start: radius of the uniform random start, same units and norm; `eps` if not given, 0 starts at `x`.
        norm: "linf" steps along the gradient's sign, "l2" along the gradient of unit length.
        loss: `loss(logits, y) -> [B]`, followed uphill; it gets float32 logits. Cross-entropy if not given.
        targeted: `y` are the classes to reach: the loss is followed downhill.
        generator: source of the random start; the default generator if not given.
        ascend: takes the default attack's steps; `seladv.frozen.Graphed` takes the same ones as a CUDA graph.

    Returns:
        Images [B, C, H, W] in `x`'s dtype, within eps of `x` and in [0, 1]; detached. Half-precision images are moved
        in float32 and in the end rounded towards `x`.

    Raises:
        ValueError: a setting, the images, the labels or the network's output is not as above (`seladv.guard`).

    Warns:
        UserWarning: the first step's gradient is zero for every image, or not a number.
    """
    x, y = guard.batch("pgd", model, x, y, generator)
    eps, step_size, steps, start = _settings(x, norm, eps=eps, step_size=step_size, steps=steps, start=start)
    if loss is not None and not callable(loss):
        raise ValueError(f"pgd: the loss is {guard.kind(loss)}; give a function loss(logits, y) -> [B]")
    if not isinstance(targeted, bool):
        raise ValueError(f"pgd: targeted is {guard.kind(targeted)}; give True, and the classes to reach as y")
    if ascend is not PLAIN and (norm != "linf" or loss or targeted):
        raise ValueError("pgd: ascend= takes the default attack's steps; leave out norm, loss and targeted, or ascend")
    if x.numel() == 0:
        return x.clone()
    given = x = guard.in_range("pgd", x)
    network: Any = guard.local(model)
    if x.dtype in (torch.bfloat16, torch.float16):
        x, network = given.float(), lambda images: model(images.to(given.dtype))
    uphill: Uphill = direction if loss is None else partial(direction_of, loss=loss)
    options: Any = {"step_size": step_size, "steps": steps}
    if norm == "l2" or loss or targeted:
        options["uphill"] = (lambda logits, y: -uphill(logits, y)) if targeted else uphill
    with eval_mode(model):
        if norm == "l2":
            x_adv = _into_ball(x + _uniform_in_ball(x, start, generator) if start else x, x, eps)
            x_adv = _ascend_l2(network, x_adv, y, x, eps, **options)
        else:
            lower, upper = (x - eps).clamp_(min=0), (x + eps).clamp_(max=1)
            noise = torch.empty_like(x).uniform_(-start, start, generator=generator) if start else torch.zeros_like(x)
            x_adv = ascend(network, noise.add_(x).clamp_(lower, upper), y, lower, upper, **options)
    return x_adv if x is given else _rounded(x_adv, given)
