"""Cheap proxies of gradient matching: the last layer alone, and the logits alone."""

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, one_hot

from seladv import guard
from seladv.gradient import direction, log_error
from seladv.selection.topk import of_logits

INSTEAD = "take gradmatch or gradmatch-logit"


@of_logits
def gradmatch_logit(logits: Tensor, y: Tensor, generator: torch.Generator | None) -> Tensor:
    """Cosine of each sample's softmax − one-hot, the loss's gradient at its logits, with the batch's mean [B]."""
    errors = logits.float().softmax(dim=1) - one_hot(y, logits.shape[1])
    return cosine_similarity(errors, errors.mean(dim=0, keepdim=True), eps=torch.finfo(errors.dtype).tiny)


def gradmatch_last(model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator | None) -> Tensor:
    """Cosine of each sample's last-layer gradient with the batch's mean [B], exact for that layer. One forward pass."""
    return last_layer_cosine(model, x, y)


def last_layer_cosine(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Cosine of each sample's last-layer loss gradient with the batch's mean gradient, in closed form.

    For logits z = W h + b the cross-entropy gradient of one sample is the outer product of e = softmax(z) - onehot(y)
    and a = [h, 1]. So every dot product with the mean gradient is eᵀ ḡ a, and every norm is |e| |a|: one forward
    pass and two small matrix products, exact for that layer (bias included where there is one).

    Args:
        model: ends in an `nn.Linear` that makes the logits; called once, without gradients.
        x: images [B, C, H, W].
        y: true classes [B].

    Returns:
        Cosines [B], float32, in [-1, 1]; 0 where the features, and with them the gradient, vanish.

    Raises:
        ValueError: the model's output is not that of its last `nn.Linear`.
    """
    if len(x) == 0:
        return x.new_zeros(0)
    model = guard.bare(model)
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not layers:
        name = type(model).__name__
        raise ValueError(f"gradmatch-last: {name} has no nn.Linear to take the last-layer gradient of; {INSTEAD}")
    seen: list[tuple[Tensor, Tensor]] = []
    handle = layers[-1].register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output)))
    try:
        with torch.no_grad(), guard.eager():
            logits = guard.logits("select", model(x), x, y)
    finally:
        handle.remove()
    if len(seen) != 1 or not _same(seen[0][1], logits):
        name = type(model).__name__
        raise ValueError(f"gradmatch-last: the logits of {name} are not its last nn.Linear's output; {INSTEAD}")
    features = seen[0][0].float()
    if layers[-1].bias is not None:
        features = torch.cat([features, features.new_ones(len(features), 1)], dim=1)

    # e = (1 - p_y) d. A cosine needs d alone, of norm >= 1, and the mean only relative sizes: so nothing cancels or
    # underflows however confident the network is.
    directions, log_sizes = direction(logits, y), log_error(logits.float(), y)
    sizes = (log_sizes - log_sizes.max()).exp()
    mean = (sizes[:, None] * directions).T @ features  # proportional to ḡ: [classes, features]
    dots = ((directions @ mean) * features).sum(dim=1)
    norms = directions.norm(dim=1) * features.norm(dim=1) * mean.norm()
    return (dots / norms.clamp(min=torch.finfo(norms.dtype).tiny)).clamp(-1, 1)


def _same(output: Tensor, logits: Tensor) -> bool:
    """Whether they hold the same numbers; a diverged network's NaN is for the training loop to report."""
    return output.shape == logits.shape and torch.allclose(
        output.float(), logits.float(), rtol=0, atol=0, equal_nan=True
    )
