"""The paper's second criterion, gradient matching over all parameters, exactly and without one gradient per sample.

One forward and one backward pass, which computes no weight's gradient. `gradmatch_layers` takes what it needs from
each layer as the backward pass reaches it, so that memory holds one layer's scratch at a time.
"""

import torch
from torch import Tensor, nn

from seladv import guard
from seladv.attack import eval_mode
from seladv.gradient import direction, log_error
from seladv.selection.gradmatch_layers import products
from seladv.selection.gradmatch_products import Products
from seladv.selection.gradmatch_trace import Trace


def gradmatch(model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator | None) -> Tensor:
    """Cosine of each sample's gradient with the batch's mean [B]. One forward and backward pass, and the products."""
    return cosine(model, x, y)


def graddot(model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator | None) -> Tensor:
    """Dot product of each sample's gradient with the batch's mean [B]: gradient matching without its norms."""
    return dot(model, x, y)


def cosine(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Cosine of each sample's loss gradient with the batch's mean gradient, over all parameters that require one.

    Exact for any network whose samples do not see each other. Linear, 1-d and 2-d convolution, batch, layer and group
    norm have a fast rule; other modules with parameters of their own are run again under `vmap`. Costs a forward pass,
    a backward pass to the activations, and for every layer its mean gradient, the products with it and the norms.

    Args:
        model: maps images to logits [B, classes], two classes or more; scored in eval mode, left as it was.
        x: images [B, ...].
        y: true classes [B], int64.

    Returns:
        Cosines [B] in [-1, 1] up to rounding, float32, or float64 for float64 logits; 0 where a gradient vanishes.

    Raises:
        ValueError: a score could not be trusted: a parameter that is shared or used outside its own module; a module
            that runs twice, does not map one tensor [B, ...] to another or changes its input; batch norm that uses
            the batch's statistics; logits that depend on no parameter.

    Source:
        The paper's gradient matching; for the products see `gradmatch_layers`.
    """
    if len(x) == 0:
        return x.new_zeros(0)
    (dots, norms, mean), _ = _score(model, x, y, norms=True)
    lengths = norms.clamp(min=0).sqrt() * mean.sqrt()
    return dots / lengths.clamp(min=torch.finfo(dots.dtype).tiny)


def dot(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Dot product [B] of each sample's loss gradient with the batch's mean gradient: `cosine` without the norms.

    Arguments, dtype and errors are those of `cosine`.
    """
    if len(x) == 0:
        return x.new_zeros(0)
    (dots, _, _), errors = _score(model, x, y, norms=False)
    return dots * errors * errors.amax() / len(x)


class _Sums:
    """Products of the samples' gradients, summed over the layers as the backward pass reaches them."""

    def __init__(self, *, norms: bool):
        self.norms = norms
        self.weights: Tensor  # each sample's share in the mean [B], known when the backward pass begins
        self.total: Products

    def begin(self, weights: Tensor) -> None:
        self.weights = weights
        self.total = Products(torch.zeros_like(weights), torch.zeros_like(weights), weights.new_zeros(()))

    def add(self, module: nn.Module, a: Tensor, g: Tensor) -> None:
        with torch.no_grad(), torch.autocast(g.device.type, enabled=False):
            for part in products(module, a, g, self.weights, norms=self.norms):
                self.total = Products(*(one + other for one, other in zip(self.total, part, strict=True)))


def _score(model: nn.Module, x: Tensor, y: Tensor, *, norms: bool) -> tuple[Products, Tensor]:
    """Products of the samples' gradients over their errors s = 1 - p_y, and these errors [B].

    Over its error, a very confident sample's gradient is of the others' scale and does not underflow; its share in the
    mean gradient is its error over the largest one.
    """
    sums, model = _Sums(norms=norms), guard.bare(model)
    with eval_mode(model), torch.enable_grad(), guard.eager():
        trace = Trace(model, len(x), sums.add)
        with trace.forward():
            logits = guard.logits("select", model(x.detach()), x, y)
        first = trace.first(logits)
        start = direction(logits, y)
        log_errors = log_error(logits.detach().to(start.dtype), y)
        sums.begin((log_errors - log_errors.amax()).exp())
        torch.autograd.grad(logits, first, start.to(logits.dtype), allow_unused=True)
    return sums.total, log_errors.exp()
