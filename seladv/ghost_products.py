"""What a layer adds to the products of the samples' gradients with their mean."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

# Elements that a step of the work spreads out to at once: they stay in a CPU's cache, and fill a GPU.
SCRATCH = {"cpu": 2**20}
LARGE = 2**26


class Products(NamedTuple):
    """What parameters add to ⟨gᵢ, Σⱼ wⱼ gⱼ⟩ [B], to ‖gᵢ‖² [B] and to ‖Σⱼ wⱼ gⱼ‖² []."""

    dots: Tensor
    norms: Tensor
    mean: Tensor


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
