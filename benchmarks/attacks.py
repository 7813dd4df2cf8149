"""A step of the attack beside a textbook loop, other libraries, and the network's bare passes."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks import peers
from benchmarks.contest import Calls, Case, Contest, sample
from seladv.attack import ascend, pgd
from seladv.frozen import Frozen, Graphed, cuda_graph
from seladv.training.device import FORMATS, autocast, resolve


def default_layout(x: Tensor) -> Tensor:
    """A copy that is not channels last; `contiguous` leaves the strides of one channel, which fit both layouts."""
    return x.clone(memory_format=torch.contiguous_format)


def unlaid(model: nn.Module) -> nn.Module:
    """A copy of one of our networks, in the same mode, whose weights are not channels last."""
    model = copy.deepcopy(model)
    for weight in model.parameters():
        weight.data = default_layout(weight.data)
    return model


def usual(model: nn.Module) -> nn.Sequential:
    """A copy as public repositories have it: default layout, ReLU before pooling; in the same mode."""
    layers = [*unlaid(model).children()]
    for place, layer in enumerate(layers):
        if isinstance(layer, nn.MaxPool2d):
            layers[place : place + 2] = layers[place + 1], layer
            break
    return nn.Sequential(*layers).train(model.training)


def textbook(model: nn.Module, x: Tensor, y: Tensor, *, eps: float, step_size: float, steps: int) -> Tensor:
    """PGD in fp32 as public repositories write it: `loss.backward()` computes every weight's gradient too, for nobody.

    Args and result as for `seladv.attack.pgd`; the network runs in the mode that it is in.
    """
    delta = torch.zeros_like(x).uniform_(-eps, eps)
    delta = torch.clamp(x + delta, 0, 1) - x
    for _ in range(steps):
        delta = delta.detach()
        delta.requires_grad = True
        loss = cross_entropy(model(x + delta), y)
        model.zero_grad()
        loss.backward()
        assert delta.grad is not None
        delta = delta.detach() + step_size * torch.sign(delta.grad.detach())
        delta = torch.clamp(delta, -eps, eps)
        delta = torch.clamp(x + delta, 0, 1) - x
    return (x + delta).detach()


def limit(model: nn.Module, x: Tensor, *, precision: str, steps: int) -> Tensor:
    """As many forward passes and backward passes to the input as PGD makes, and nothing besides: the last gradient.

    `model` is the folded copy, so that the passes are the cheapest ones that compute the same network.
    """
    gradient = x
    with autocast(precision, x.device):
        for _ in range(steps):
            x = x.detach().requires_grad_()
            logits = model(x)
            (gradient,) = torch.autograd.grad(logits, x, torch.ones_like(logits))
    return gradient


def contest(case: Case, *, device: torch.device, found: dict[str, Any]) -> Contest:
    """Milliseconds of a PGD step; the check is the mean loss that an attack reaches: none is fast by attacking less.

    `plain` is `pgd` on the network as it is, as in a loop of one's own; `seladv` refolds a copy for each attack, as in
    training. On a GPU our steps and the bare passes are CUDA graphs. `found`: see `peers.load`.
    """
    model, x, y = sample(case, device)
    usual_model, x_usual = usual(model), default_layout(x)
    gpu, trained = device.type == "cuda", resolve("auto", device)
    formats = dict.fromkeys((trained, "fp32"))
    copies = {precision: Frozen(model, x[:2], dtype=FORMATS[precision]) for precision in formats}
    steps = {precision: Graphed(copy.network) if gpu else ascend for precision, copy in copies.items()}

    def ours(precision: str) -> Tensor:
        with autocast(precision, device):
            return pgd(copies[precision].refold(), x, y, **case.attack, ascend=steps[precision])

    def plain(precision: str) -> Tensor:
        with autocast(precision, device):
            return pgd(model, x, y, **case.attack)

    def passes(precision: str) -> Callable[[], Any]:
        call = partial(limit, copies[precision].network, x, precision=precision, steps=case.attack["steps"])
        return cuda_graph(call)[0] if gpu else call

    @torch.no_grad()
    def losses(results: dict[str, Any]) -> dict[str, float]:
        attacks = {name: x_adv for name, x_adv in results.items() if not name.startswith("limit")}
        for name, x_adv in attacks.items():
            if (x_adv - x).abs().max() > case.attack["eps"] + 1e-6:
                raise RuntimeError(f"{name} left the ball of eps = {case.attack['eps']}")
        return {name: cross_entropy(usual_model(x_adv), y).item() for name, x_adv in attacks.items()}

    calls: Calls = {"textbook": partial(textbook, usual_model, x_usual, y, **case.attack)}
    calls |= peers.attacks(found, usual_model, x_usual, y, **case.attack)
    for precision in formats:
        calls |= {f"seladv, {precision}": partial(ours, precision), f"plain, {precision}": partial(plain, precision)}
        calls |= {f"limit, {precision}": passes(precision)}
    title = f"attack: {case.model}, batch {case.batch}"
    return Contest(title, "PGD step", case.attack["steps"], f"seladv, {trained}", calls, losses)
