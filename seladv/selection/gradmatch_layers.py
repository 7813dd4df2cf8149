"""Products of per-sample gradients, one layer at a time, from the layer's input and the gradient of its output.

A layer that multiplies by a weight has the per-sample gradient gᵢ = Σₜ δₜ aₜᵀ over its T positions, with its input a
and its output's gradient δ. Where the gᵢ of this one layer take no more memory than a few of its activations, they are
written down, and dropped again. Elsewhere none is needed: the products with the mean gradient ḡ are Σₜ δₜᵀ ḡ aₜ, one
more forward pass of that layer with ḡ for its weight ("ghost" products, Wang et al. 2025, In-Run Data Shapley), and
squared norms are Σₜₛ (aₜᵀaₛ)(δₜᵀδₛ) (the choice of the two: Bu et al. 2022, mixed ghost clipping).
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from seladv.selection.gradmatch_products import Products, SelfAttention, of_mean, of_rows, pieces, rerun, weighted

MOST = 4  # elements that a layer's per-sample gradients may take, over those of its input and output
Rule = Callable[[Any, Tensor, Tensor, Tensor, set[str], bool], Iterator[Products]]


def parameters(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The parameters that are `module`'s own, by name; those of an attention's layers are the attention's."""
    whole = isinstance(module, SelfAttention) or is_attention(module)
    return module.named_parameters(recurse=whole, remove_duplicate=False)


def is_attention(module: nn.Module) -> TypeGuard[nn.MultiheadAttention]:
    """Whether `module` computes what `nn.MultiheadAttention` does."""
    return type(module).forward is nn.MultiheadAttention.forward and "forward" not in vars(module)


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
    own = {name for name, weight in parameters(module) if weight.requires_grad}
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


class _Shape(NamedTuple):
    """A 2-d convolution of an already padded input; a 1-d one has a height of 1."""

    weight: torch.Size
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    def windows(self, a: Tensor, out: torch.Size) -> Tensor:
        """The patches [B, groups, H', W', kernel, kernel, C] that the outputs see of `a`: a view."""
        channels, height, width = self.weight[1:]
        n, c, h, w = a.stride()
        (down, right), (dh, dw) = self.stride, self.dilation
        size = (len(a), self.groups, out[2], out[3], height, width, channels)
        return a.as_strided(size, (n, c * channels, h * down, w * right, h * dh, w * dw, c), a.storage_offset())


def _conv(module: _ConvNd, a: Tensor, g: Tensor, weights: Tensor, own: set[str], norms: bool) -> Iterator[Products]:
    """The rule for 1-d and 2-d convolutions."""
    if "bias" in own:
        yield of_rows([_over_positions(g, weights.dtype)], weights)
    if "weight" not in own:
        return
    shape = _Shape(module.weight.shape, module.stride, module.dilation, module.groups)
    if a.dim() == 3:
        g, weight = g.unsqueeze(2), module.weight.unsqueeze(2).shape
        shape = _Shape(weight, (1, *module.stride), (1, *module.dilation), module.groups)
    if len(a) * module.weight.numel() <= MOST * (a.numel() + g.numel()):
        yield of_rows(_gradients(module, a, g, shape), weights)
    else:
        a, how = _padded(module, a.to(g.dtype)), (shape.stride, 0, shape.dilation, shape.groups)
        mean = conv2d_weight(a, shape.weight, weighted(g, weights), *how)
        squares = _squares(a, g, shape, weights.dtype) if norms else torch.zeros_like(weights)
        yield of_mean(mean, F.conv2d(a, mean, None, *how), g, squares, weights.dtype)


def _over_positions(g: Tensor, dtype: torch.dtype) -> Tensor:
    """The bias' gradients [B, P]."""
    parts = pieces(g, each=g[0].numel())
    return torch.cat([g[part].to(dtype).flatten(2).sum(dim=2) for part in parts])


def _padded(module: _ConvNd, a: Tensor) -> Tensor:
    """The input [B, C, H, W] as the kernel sees it; channels last: a patch is then a few long stretches of memory."""
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    if any(module._reversed_padding_repeated_twice):
        a = F.pad(a, module._reversed_padding_repeated_twice, mode)
    a = a.unsqueeze(2) if a.dim() == 3 else a
    return a.contiguous(memory_format=torch.channels_last)


def _gradients(module: _ConvNd, a: Tensor, g: Tensor, shape: _Shape) -> Iterator[Tensor]:
    """The kernel's gradients [b, n] themselves, Σₜ δₜ aₜᵀ, for one part of the batch after the other."""
    deltas = g.flatten(2).unflatten(1, (shape.groups, -1))  # [B, groups, P, T]
    for part in pieces(a, each=g[0, 0].numel() * shape.groups * shape.weight[1:].numel()):
        patches = shape.windows(_padded(module, a[part].to(g.dtype)), g.shape)
        columns = patches.flatten(4).flatten(2, 3)  # [b, groups, T, D]
        yield (deltas[part] @ columns).flatten(1)


def _squares(a: Tensor, g: Tensor, shape: _Shape, dtype: torch.dtype) -> Tensor:
    """‖Σₜ δₜ aₜᵀ‖² [B] = Σₜₛ (aₜᵀaₛ)(δₜᵀδₛ). Its terms cancel: they are not rounded to bf16.

    A product of two patches is a sum over the kernel's places, each the product of two of the input's pixels: so the
    pixels are multiplied once, and no patch is written down.
    """
    groups, (down, right), (dh, dw) = shape.groups, shape.stride, shape.dilation
    (height, width), (rows, columns) = g.shape[2:], a.shape[2:]
    squares = []
    for part in pieces(a, each=groups * (rows * columns) ** 2):
        pixels = a[part].to(dtype).flatten(2).unflatten(1, (groups, -1))
        deltas = g[part].to(dtype).flatten(2).unflatten(1, (groups, -1))
        every = (pixels.mT @ pixels).unflatten(3, (rows, columns)).unflatten(2, (rows, columns))
        total = torch.zeros((), dtype=dtype, device=a.device)
        for i in range(shape.weight[2]):
            for j in range(shape.weight[3]):
                down_from = slice(i * dh, i * dh + down * (height - 1) + 1, down)
                right_from = slice(j * dw, j * dw + right * (width - 1) + 1, right)
                total = total + every[:, :, down_from, right_from, down_from, right_from]
        products = (deltas.mT @ deltas).reshape(total.shape)
        squares.append((total * products).flatten(1).sum(dim=1))
    return torch.cat(squares)


# By the function that runs the module: a subclass that computes something else is not covered by its parent's rule.
RULES: dict[Callable[..., Tensor], Rule] = {
    nn.Linear.forward: _linear,
    nn.Conv1d.forward: _conv,
    nn.Conv2d.forward: _conv,
    _BatchNorm.forward: _affine,
    nn.LayerNorm.forward: _affine,
    nn.GroupNorm.forward: _affine,
}
