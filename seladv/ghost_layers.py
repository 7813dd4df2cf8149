"""Products of per-sample gradients, one layer at a time, from the layer's input and the gradient of its output.

A layer that multiplies by a weight has the per-sample gradient gᵢ = Σₜ δₜ aₜᵀ over its T positions, with its input a
and its output's gradient δ. No gᵢ is needed for the products with the mean gradient ḡ, Σₜ δₜᵀ ḡ aₜ: one more forward
pass of that layer, with ḡ for its weight ("ghost" products, Wang et al. 2025, In-Run Data Shapley). Squared norms are
Σₜₛ (aₜᵀaₛ)(δₜᵀδₛ), or those of the gᵢ themselves, whichever is less work (Bu et al. 2022, mixed ghost clipping).
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd


class Products(NamedTuple):
    """What parameters add to ⟨gᵢ, Σⱼ wⱼ gⱼ⟩ [B], to ‖gᵢ‖² [B] and to ‖Σⱼ wⱼ gⱼ‖² []."""

    dots: Tensor
    norms: Tensor
    mean: Tensor


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
        norms: whether squared norms are wanted; zeros take their place if not.
    """
    own = {name for name, weight in module.named_parameters(recurse=False) if weight.requires_grad}
    found = rule(module)
    return list(found(module, a, g, weights, own, norms)) if found else [_any(module, a, g, weights, own)]


def _rows(rows: Tensor, weights: Tensor) -> Products:
    """Products of gradients that are small enough to write down: one a row [B, n]."""
    mean = weights @ rows
    return Products(rows @ mean, rows.square().sum(dim=1), mean.square().sum())


def _linear(module: nn.Linear, a: Tensor, g: Tensor, weights: Tensor, own: set[str], norms: bool) -> Iterator[Products]:
    a, g = (part.reshape(len(part), -1, part.shape[-1]) for part in (a.to(g.dtype), g))  # [B, T, D], [B, T, P]
    if "weight" in own:
        mean = (g * _column(weights, g)).flatten(0, 1).T @ a.flatten(0, 1)
        dots = _inner(a @ mean.T, g, weights.dtype)
        squares = _squares(a.mT[:, None], g.mT[:, None], weights.dtype) if norms else torch.zeros_like(weights)
        yield Products(dots, squares, mean.to(weights.dtype).square().sum())
    if "bias" in own:
        yield _rows(g.sum(dim=1, dtype=weights.dtype), weights)


def _conv(module: _ConvNd, a: Tensor, g: Tensor, weights: Tensor, own: set[str], norms: bool) -> Iterator[Products]:
    if "bias" in own:
        yield _rows(g.flatten(2).sum(dim=2, dtype=weights.dtype), weights)
    if "weight" not in own:
        return
    a, padding = _padded(module, a.to(g.dtype))
    shape, stride, dilation = module.weight.shape, module.stride, module.dilation
    if len(shape) == 3:  # one dimension is two with a height of 1
        a, g, shape = a.unsqueeze(2), g.unsqueeze(2), module.weight.unsqueeze(2).shape
        stride, dilation, padding = (1, *stride), (1, *dilation), (0, *padding)
    groups, kernel = module.groups, shape[2:]
    mean = conv2d_weight(a, shape, g * _column(weights, g), stride, padding, dilation, groups)
    dots = _inner(F.conv2d(a, mean, None, stride, padding, dilation, groups), g, weights.dtype)

    def patches(images: Tensor) -> Tensor:
        columns = F.unfold(images, kernel, dilation, padding, stride)
        return columns.unflatten(1, (groups, -1))

    grouped = g.flatten(2).unflatten(1, (groups, -1))
    squares = _squares(a, grouped, weights.dtype, patches, shape[1:].numel()) if norms else torch.zeros_like(weights)
    yield Products(dots, squares, mean.to(weights.dtype).square().sum())


def _padded(module: _ConvNd, a: Tensor) -> tuple[Tensor, tuple[int, ...]]:
    """The input and the zero padding still to be done on both its sides; other paddings are done here."""
    if module.padding_mode == "zeros" and not isinstance(module.padding, str):
        return a, module.padding
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    return F.pad(a, module._reversed_padding_repeated_twice, mode), (0,) * len(module.stride)


def _squares(
    a: Tensor,
    g: Tensor,
    dtype: torch.dtype,
    patches: Callable[[Tensor], Tensor] = lambda part: part,
    size: int | None = None,
) -> Tensor:
    """‖Σₜ δₜ aₜᵀ‖² [B], summed over groups, for `patches(a)` [B, groups, D, T] and `g` [B, groups, P, T]; D = `size`.

    Works on so many samples at once that its scratch memory is no more than the layer's input and output take.
    """
    groups, rows, positions = g.shape[1:]
    size = a.shape[2] if size is None else size
    gram = positions * (size + rows) < size * rows
    scratch = groups * (size * positions + (2 * positions**2 if gram else size * rows))
    count = max(1, (a.numel() + g.numel()) // scratch)
    parts = []
    for images, deltas in zip(a.split(count), g.split(count), strict=True):
        columns = patches(images)
        if positions == 1:
            square = columns.to(dtype).square().sum(dim=(2, 3)) * deltas.to(dtype).square().sum(dim=(2, 3))
        elif gram:  # the terms cancel, so they must not be rounded to bf16
            columns, deltas = columns.to(dtype), deltas.to(dtype)
            square = ((columns.mT @ columns) * (deltas.mT @ deltas)).sum(dim=(2, 3))
        else:
            square = torch.linalg.vector_norm(deltas @ columns.mT, dim=(2, 3), dtype=dtype).square()
        parts.append(square.sum(dim=1))
    return torch.cat(parts)


def _column(weights: Tensor, g: Tensor) -> Tensor:
    return weights.to(g.dtype).reshape(-1, *[1] * (g.dim() - 1))


def _inner(u: Tensor, g: Tensor, dtype: torch.dtype) -> Tensor:
    return (u.to(dtype) * g).flatten(1).sum(dim=1)


def _affine(module: nn.Module, a: Tensor, g: Tensor, weights: Tensor, own: set[str], norms: bool) -> Iterator[Products]:
    """Batch, layer and group norm: a scale of the normalised input and a shift."""
    a, g = a.to(weights.dtype), g.to(weights.dtype)

    def total(part: Tensor) -> Tensor:
        if isinstance(module, nn.LayerNorm):
            return part.reshape(len(part), -1, module.weight.numel()).sum(dim=1)
        return part.reshape(*part.shape[:2], -1).sum(dim=2)

    if "weight" in own:
        yield _rows(total(_normalised(module, a) * g), weights)
    if "bias" in own:
        yield _rows(total(g), weights)


def _normalised(module: nn.Module, a: Tensor) -> Tensor:
    if isinstance(module, nn.LayerNorm):
        return F.layer_norm(a, module.normalized_shape, eps=module.eps)
    if isinstance(module, nn.GroupNorm):
        return F.group_norm(a, module.num_groups, eps=module.eps)
    assert isinstance(module, _BatchNorm)
    return F.batch_norm(a, module.running_mean, module.running_var, eps=module.eps)


class _Bare(nn.Module):
    """`module` without its own hooks, which `a` and `g` already are behind and before."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, a: Tensor) -> Tensor:
        return self.module.forward(a)


def _any(module: nn.Module, a: Tensor, g: Tensor, weights: Tensor, own: set[str]) -> Products:
    """Any other module: its per-sample gradients themselves, from running it again, a few samples at a time."""
    bare = _Bare(module)
    values = {f"module.{name}": getattr(module, name).detach().to(weights.dtype) for name in sorted(own)}
    a, g = a.to(weights.dtype) if a.is_floating_point() else a, g.to(weights.dtype)

    def product(values: dict[str, Tensor], a: Tensor, g: Tensor) -> Tensor:
        return (functional_call(bare, values, (a[None],))[0] * g).sum()

    def rows(part: slice) -> Tensor:
        gradients = vmap(grad(product), (None, 0, 0))(values, a[part], g[part])
        return torch.cat([gradient.flatten(1) for gradient in gradients.values()], dim=1)

    leaves = {name: value.clone().requires_grad_() for name, value in values.items()}
    with torch.enable_grad():
        summed = (functional_call(bare, leaves, (a,)) * g * _column(weights, g)).sum()
    if not summed.requires_grad:  # what it owns, it does not use
        return Products(torch.zeros_like(weights), torch.zeros_like(weights), weights.new_zeros(()))
    whole = torch.autograd.grad(summed, list(leaves.values()), allow_unused=True, materialize_grads=True)
    mean = torch.cat([part.flatten() for part in whole])
    scratch = sum(value.numel() for value in values.values()) + (a.numel() + g.numel()) // len(a)
    count = max(1, 2 * (a.numel() + g.numel()) // scratch)
    dots, squares, check = [], [], torch.zeros_like(mean)
    for part in (slice(start, start + count) for start in range(0, len(a), count)):
        gradients = rows(part)
        dots.append(gradients @ mean)
        squares.append(gradients.square().sum(dim=1))
        check += weights[part] @ gradients
    # The sum of the parts is the whole, unless samples see each other, or `vmap` errs, which it has been seen to do.
    if not torch.allclose(check, mean, rtol=1e-3, atol=1e-3 * float(mean.norm())):
        raise ValueError(f"ghost: {type(module).__name__} has no per-sample gradients that add up to the batch's")
    return Products(torch.cat(dots), torch.cat(squares), mean.square().sum())


# By the function that runs the module: a subclass that computes something else is not covered by its parent's rule.
RULES: dict[Callable[..., Tensor], Rule] = {
    nn.Linear.forward: _linear,
    nn.Conv1d.forward: _conv,
    nn.Conv2d.forward: _conv,
    _BatchNorm.forward: _affine,
    nn.LayerNorm.forward: _affine,
    nn.GroupNorm.forward: _affine,
}
