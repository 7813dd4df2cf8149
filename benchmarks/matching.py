"""Exact gradient matching beside other ways to the same scores, and beside one forward and backward pass."""

import warnings
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.functional import cosine_similarity, cross_entropy

from benchmarks.attacks import default_layout, unlaid
from benchmarks.contest import Case, Contest, sample
from seladv.selection import gradmatch
from seladv.training.device import autocast

PASSES, EXACT = "forward + backward", "gradmatch"


def gradient(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    """The mean loss's gradient to every weight, as an update computes it: the unit."""
    return torch.autograd.grad(cross_entropy(model(x).float(), y), [*model.parameters()])


def by_sample(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Cosines [B] from the batch's mean gradient and then a backward pass for each sample."""

    def flat(images: Tensor, labels: Tensor) -> Tensor:
        return torch.cat([part.flatten() for part in gradient(model, images, labels)])

    mean, samples = flat(x, y), zip(x.split(1), y.split(1), strict=True)
    return torch.stack([cosine_similarity(flat(*sample), mean, dim=0) for sample in samples])


def by_vmap(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Cosines [B] from one gradient per sample, by torch.func."""
    weights = {name: weight.detach() for name, weight in model.named_parameters()}

    def loss(weights: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        return cross_entropy(functional_call(model, weights, (image[None],)).float(), label[None])

    return cosines(vmap(grad(loss), (None, 0, 0))(weights, x, y).values())


def wrap(opacus: Any, model: nn.Module) -> Any:
    """A copy of `model` with Opacus' hooks, which work in train mode alone, and without what they do not support.

    That is channels last (its scores would be wrong), ReLU in place, and batch norm's parameters: frozen here, so that
    Opacus computes less than the others.
    """
    model = unlaid(model).train()
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
        if isinstance(module, nn.BatchNorm2d):
            module.eval().requires_grad_(False)
    return opacus.GradSampleModule(model, loss_reduction="sum", strict=False)


def by_opacus(model: Any, x: Tensor, y: Tensor) -> Tensor:
    """Cosines [B] from one gradient per sample, by Opacus' hooks; `model` comes from `wrap`."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Full backward hook is firing")  # the first layer's, whose input needs none
        cross_entropy(model(default_layout(x)).float(), y, reduction="sum").backward()
    found = cosines(weight.grad_sample for weight in model.parameters() if weight.requires_grad)
    model.zero_grad()  # also drops the samples' gradients
    return found


def cosines(gradients: Iterable[Tensor]) -> Tensor:
    """Cosine [B] of each sample's gradient with their mean; gradients [B, ...] by parameter, none copied."""
    sums: Any = (0.0, 0.0, 0.0)
    for part in gradients:
        rows = part.detach().flatten(1)
        mean = rows.mean(dim=0)
        sums = [s + more for s, more in zip(sums, (rows @ mean, rows.norm(dim=1) ** 2, mean.norm() ** 2), strict=True)]
    dots, squares, whole = sums
    return dots / (squares * whole).sqrt()


def contest(case: Case, *, precision: str, device: torch.device, found: dict[str, Any]) -> Contest:
    """Milliseconds of scoring a batch; the check is how far any cosine is from gradmatch's.

    All ways can do fp32; in bf16 gradmatch is alone, since vmap's batch norm fails there. `found`: see `peers.load`.
    """
    model, x, y = sample(case, device)
    ways: dict[str, Callable[..., Any]] = {PASSES: gradient, EXACT: gradmatch.cosine}
    if precision == "fp32":
        ways |= {"vmap(grad)": by_vmap, "a backward pass per sample": by_sample}
    networks = dict.fromkeys(ways, model)
    if precision == "fp32" and "opacus" in found:
        ways["opacus"], networks["opacus"] = by_opacus, wrap(found["opacus"], model)

    def call(name: str) -> Any:
        with autocast(precision, device):
            return ways[name](networks[name], x, y)

    def apart(results: dict[str, Any]) -> dict[str, float]:
        scores = {name: score for name, score in results.items() if name != PASSES}
        return {name: (score - scores[EXACT]).abs().max().item() for name, score in scores.items()}

    title = f"exact matching: {case.model}, batch {case.batch}, {precision}"
    return Contest(title, "batch", 1, PASSES, {name: partial(call, name) for name in ways}, apart)
