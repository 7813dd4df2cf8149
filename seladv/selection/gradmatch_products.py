"""What a layer adds to the products of the samples' gradients with their mean, and any module's by running it again."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

# Elements that a step of the work spreads out to at once: they stay in a CPU's cache, and fill a GPU.
SCRATCH = {"cpu": 2**20}
LARGE = 2**26


class Products(NamedTuple):
    """What parameters add to ⟨gᵢ, Σⱼ wⱼ gⱼ⟩ [B], to ‖gᵢ‖² [B] and to ‖Σⱼ wⱼ gⱼ‖² []."""

    dots: Tensor
    norms: Tensor
    mean: Tensor


def refusal(why: str) -> ValueError:
    """The error of a network that cannot be scored."""
    return ValueError(f"gradmatch: {why}; take gradmatch-last, which asks for the last layer alone")


def pieces(a: Tensor, *, each: int) -> Iterator[slice]:
    """Parts of a batch `a` [B, ...], so that `each` elements for a sample are `SCRATCH` in all, or one sample's."""
    count = max(1, SCRATCH.get(a.device.type, LARGE) // each)
    return (slice(start, start + count) for start in range(0, len(a), count))


def of_rows(parts: Iterable[Tensor], weights: Tensor) -> Products:
    """Products of gradients that are written down, one a row [b, n], for one part of the batch after the other."""
    rows = list(parts)
    shares = weights.split([len(part) for part in rows])
    mean = sum(share @ part.to(weights.dtype) for share, part in zip(shares, rows, strict=True))
    assert isinstance(mean, Tensor)
    dots = [part.to(weights.dtype) @ mean for part in rows]
    norms = [torch.linalg.vector_norm(part, dim=1, dtype=weights.dtype).square() for part in rows]
    return Products(torch.cat(dots), torch.cat(norms), mean.square().sum())


def of_mean(mean: Tensor, along: Tensor, g: Tensor, norms: Tensor, dtype: torch.dtype) -> Products:
    """Products from the mean gradient, the layer's output `along` it in place of its weight, and that output's `g`."""
    dots = [
        (along[part].to(dtype) * g[part]).flatten(1).sum(dim=1) for part in pieces(g, each=2 * g[0].numel())
    ]  # fmt: skip
    return Products(torch.cat(dots), norms, torch.linalg.vector_norm(mean, dtype=dtype).square())


def weighted(g: Tensor, weights: Tensor) -> Tensor:
    """Each sample's `g` times its weight in the mean."""
    return g * weights.to(g.dtype).reshape(-1, *[1] * (g.dim() - 1))


class _Bare(nn.Module):
    """`module` without its own hooks, which `a` and `g` already are behind and before."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, a: Tensor) -> Tensor:
        return self.module.forward(a)


class SelfAttention(nn.Module):
    """`nn.MultiheadAttention` of a sequence with itself, as a map of one tensor [B, T, E] to another.

    It uses all its weights in one function, and those of its `out_proj` outside of that: it is taken as a whole.
    """

    def __init__(self, attention: nn.MultiheadAttention, how: dict[str, Any]):
        super().__init__()
        self.attention, self.how = attention, how

    def forward(self, a: Tensor) -> Tensor:
        dim = 0 if self.attention.batch_first else 1
        a = a.transpose(0, dim)
        return self.attention.forward(a, a, a, **self.how)[0].transpose(0, dim)


def rerun(module: nn.Module, a: Tensor, g: Tensor, weights: Tensor, own: set[str]) -> Products:
    """Any other module: its per-sample gradients themselves, from running it again, a few samples at a time."""
    bare = _Bare(module)
    values = {f"module.{name}": module.get_parameter(name).detach().to(weights.dtype) for name in sorted(own)}
    others = {  # of a network in half precision
        f"module.{name}": value.detach().to(weights.dtype)
        for name, value in (*module.named_parameters(), *module.named_buffers())
        if name not in own and value.is_floating_point() and value.dtype != weights.dtype
    }
    a, g = a.to(weights.dtype) if a.is_floating_point() else a, g.to(weights.dtype)

    def product(values: dict[str, Tensor], a: Tensor, g: Tensor) -> Tensor:
        return (functional_call(bare, {**others, **values}, (a[None],))[0] * g).sum()

    def rows(part: slice) -> Tensor:
        with sdpa_kernel(SDPBackend.MATH):  # `vmap` knows no rule for the others
            gradients = vmap(grad(product), (None, 0, 0))(values, a[part], g[part])
        return torch.cat([gradient.flatten(1) for gradient in gradients.values()], dim=1)

    leaves = {name: value.clone().requires_grad_() for name, value in values.items()}
    with torch.enable_grad():
        summed = (functional_call(bare, {**others, **leaves}, (a,)) * weighted(g, weights)).sum()
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
        raise refusal(f"{type(module).__name__} has no per-sample gradients that add up to the batch's")
    return Products(torch.cat(dots), torch.cat(squares), mean.square().sum())
