"""Ways to the exact gradient-matching scores of a batch, and what they are measured against."""

import copy
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.functional import cross_entropy

from benchmarks.settings import Case
from seladv import ghost, precision

PASSES, EXACT, VMAP, OPACUS = "forward + backward", "gradmatch", "vmap(grad)", "opacus"
NAMES = (PASSES, EXACT, VMAP, OPACUS)


def sample(case: Case, batch: int, *, device: torch.device) -> tuple[nn.Module, Tensor, Tensor]:
    """The case's network in eval mode, random images [batch, C, H, W], channels last as in training, and classes."""
    torch.manual_seed(0)
    model = case.network().to(device=device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    x = torch.rand(batch, *case.shape, device=device).contiguous(memory_format=torch.channels_last)
    return model, x, torch.randint(10, (batch,), device=device)


def calls(
    model: nn.Module, x: Tensor, y: Tensor, *, number_format: str, found: dict[str, Any]
) -> dict[str, Callable[[], Tensor]]:
    """Each way by name, all in `number_format` on one network in eval mode; `opacus` where it is installed.

    Args:
        model: in eval mode.
        x: images [B, C, H, W].
        y: classes [B].
        number_format: see `seladv.precision.autocast`.
        found: the peers' modules, see `peers.load`.
    """

    def within(score: Callable[[], Tensor]) -> Callable[[], Tensor]:
        def call() -> Tensor:
            with precision.autocast(number_format, x.device):
                return score()

        return call

    ways = {
        PASSES: lambda: passes(model, x, y),
        EXACT: lambda: ghost.cosine(model, x, y),
        VMAP: lambda: by_vmap(model, x, y),
    }
    if OPACUS in found:
        wrapped = wrap(found[OPACUS], copy.deepcopy(model))
        ways[OPACUS] = lambda: by_opacus(wrapped, x, y)
    return {name: within(way) for name, way in ways.items()}


def passes(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """One forward and one backward pass with every weight's gradient, as an update makes them: the unit."""
    loss = cross_entropy(model(x).float(), y)
    return torch.autograd.grad(loss, list(model.parameters()))[0]


def by_vmap(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Cosines [B] from one gradient per sample, by torch.func."""
    weights = {name: weight.detach() for name, weight in model.named_parameters()}

    def loss(weights: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        return cross_entropy(functional_call(model, weights, (image[None],)).float(), label[None])

    return cosines(vmap(grad(loss), (None, 0, 0))(weights, x, y).values())


def wrap(opacus: Any, model: nn.Module) -> Any:
    """`model` with Opacus' hooks, which work in train mode alone, and without what they do not support.

    That is ReLU in place, and batch norm's parameters: frozen here, so that Opacus computes less than the others.
    """
    for module in model.to(memory_format=torch.contiguous_format).train().modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
        if isinstance(module, nn.BatchNorm2d):
            module.eval().requires_grad_(False)
    return opacus.GradSampleModule(model, loss_reduction="sum", strict=False)


def by_opacus(model: Any, x: Tensor, y: Tensor) -> Tensor:
    """Cosines [B] from one gradient per sample, by Opacus' hooks."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Full backward hook is firing")  # the first layer's, whose input needs none
        cross_entropy(model(x).float(), y, reduction="sum").backward()
    found = cosines(weight.grad_sample for weight in model.parameters() if weight.requires_grad)
    model.zero_grad()  # also drops the samples' gradients
    return found


def cosines(gradients: Iterable[Tensor]) -> Tensor:
    """Cosine [B] of each sample's gradient with their mean; gradients [B, ...] by parameter, none copied."""
    dots: Any = 0.0
    squares: Any = 0.0
    whole: Any = 0.0
    for part in gradients:
        rows = part.detach().flatten(1)
        mean = rows.mean(dim=0)
        dots, squares, whole = dots + rows @ mean, squares + rows.norm(dim=1) ** 2, whole + mean.norm() ** 2
    return dots / (squares * whole).sqrt()
