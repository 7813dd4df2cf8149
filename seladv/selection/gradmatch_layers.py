"""Products of per-sample gradients, one layer at a time, from the layer's input and the gradient of its output.

A layer that multiplies by a weight has the per-sample gradient gᵢ = Σₜ δₜ aₜᵀ over its T positions, with its input a
and its output's gradient δ. Where the gᵢ of this one layer take no more memory than a few of its activations, they are
written down, and dropped again. Elsewhere none is needed: the products with the mean gradient ḡ are Σₜ δₜᵀ ḡ aₜ, one
more forward pass of that layer with ḡ for its weight ("ghost" products, Wang et al. 2025, In-Run Data Shapley), and
squared norms are Σₜₛ (aₜᵀaₛ)(δₜᵀδₛ) (the choice of the two: Bu et al. 2022, mixed ghost clipping).
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from seladv.selection.gradmatch_conv import conv
from seladv.selection.gradmatch_products import Products, of_mean, of_rows, pieces, rerun, weighted

Rule = Callable[[Any, Tensor, Tensor, Tensor, set[str], bool], Iterator[Products]]


def rule(module: nn.Module) -> Rule | None:
    """The rule for what `module` computes, or None: then `products` runs it again."""
    own = {name for name, _ in module.named_parameters(recurse=False)}
    changed = "forward" in vars(module) or not own <= {"weight", "bias"}
    return None if changed else RULES.get(type(module).forward)


def products(module: nn.Module, a: Tensor, g: Tensor, weights: Tensor, *, norms: bool) -> list[Products]:
    """Products of the gradients of the parameters that `module` itself owns and that require one.

    Args:
        module: in eval mode; it mapped `a` to an output whose gradient is `g`, each sample on its own.
        a: input [B, ...].
        g: gradient of the summed loss with respect to the output [B, ...].
        weights: each sample's weight w in the mean gradient [B]; its dtype is that of all sums.
        norms: whether squared norms are wanted; if not, they may be anything.
    """
    own = {name for name, weight in module.named_parameters(recurse=False) if weight.requires_grad}
    found = rule(module)
    return list(found(module, a, g, weights, own, norms)) if found else [rerun(module, a, g, weights, own)]


def _linear(module: nn.Linear, a: Tensor, g: Tensor, weights: Tensor, own: set[str], norms: bool) -> Iterator[Products]:
    a, g = (part.reshape(len(part), -1, part.shape[-1]) for part in (a.to(g.dtype), g))  # [B, T, D], [B, T, P]
    positions, size = g.shape[1], module.weight.numel()
    if "weight" in own and size <= positions * (a.shape[2] + g.shape[2]):
        yield of_rows(((g[part].mT @ a[part]).flatten(1) for part in pieces(g, each=size)), weights)
    elif "weight" in own:
        mean = weighted(g, weights).flatten(0, 1).T @ a.flatten(0, 1)
        squares = torch.zeros_like(weights)
        if norms:  # the terms cancel, so they must not be rounded to bf16
            grams = ((part[s].to(weights.dtype) for part in (a, g)) for s in pieces(g, each=positions * a.shape[2]))
            squares = torch.cat([((p @ p.mT) * (q @ q.mT)).sum(dim=(1, 2)) for p, q in grams])
        yield of_mean(mean, a @ mean.T, g, squares, weights.dtype)
    if "bias" in own:
        yield of_rows([g.sum(dim=1, dtype=weights.dtype)], weights)


def _affine(module: nn.Module, a: Tensor, g: Tensor, weights: Tensor, own: set[str], norms: bool) -> Iterator[Products]:
    """Batch, layer and group norm: a scale of the normalised input and a shift."""

    def total(part: Tensor) -> Tensor:
        if isinstance(module, nn.LayerNorm):
            return part.reshape(len(part), -1, module.weight.numel()).sum(dim=1)
        return part.reshape(*part.shape[:2], -1).sum(dim=2)

    scales, shifts = [], []
    for part in pieces(a, each=2 * a[0].numel()):
        delta = g[part].to(weights.dtype)
        shifts.append(total(delta))
        scales.append(total(_normalised(module, a[part].to(weights.dtype)) * delta))
    if "weight" in own:
        yield of_rows(scales, weights)
    if "bias" in own:
        yield of_rows(shifts, weights)


def _normalised(module: nn.Module, a: Tensor) -> Tensor:
    if isinstance(module, nn.LayerNorm):
        return F.layer_norm(a, module.normalized_shape, eps=module.eps)
    if isinstance(module, nn.GroupNorm):
        return F.group_norm(a, module.num_groups, eps=module.eps)
    assert isinstance(module, _BatchNorm)
    return F.batch_norm(a, module.running_mean, module.running_var, eps=module.eps)


# By the function that runs the module: a subclass that computes something else is not covered by its parent's rule.
RULES: dict[Callable[..., Tensor], Rule] = {
    nn.Linear.forward: _linear,
    nn.Conv1d.forward: conv,
    nn.Conv2d.forward: conv,
    _BatchNorm.forward: _affine,
    nn.LayerNorm.forward: _affine,
    nn.GroupNorm.forward: _affine,
}
