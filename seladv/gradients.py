"""Per-sample gradients of the loss, without one backward pass per sample."""

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot


def last_layer_cosine(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Cosine of each sample's last-layer loss gradient with the batch's mean gradient, in closed form.

    For logits z = W h + b the cross-entropy gradient of one sample is the outer product of p = softmax(z) - onehot(y)
    and a = [h, 1]. So every dot product with the mean gradient is pᵀ ḡ a, and every norm is |p| |a|: one forward
    pass and two small matrix products, exact for that layer (bias included where there is one).

    Args:
        model: ends in an `nn.Linear` that makes the logits; called once, without gradients.
        x: images [B, C, H, W].
        y: true classes [B].

    Returns:
        Cosines [B], float32, in [-1, 1]; 0 for a sample whose gradient vanishes.

    Raises:
        ValueError: the model's output is not that of its last `nn.Linear`.
    """
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not layers:
        raise ValueError(f"gradmatch: {type(model).__name__} has no nn.Linear to take the last-layer gradient of")
    seen: list[tuple[Tensor, Tensor]] = []
    handle = layers[-1].register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output)))
    try:
        with torch.no_grad():
            logits = model(x)
    finally:
        handle.remove()
    if len(seen) != 1 or seen[0][1].shape != logits.shape or not torch.equal(seen[0][1], logits):
        raise ValueError(f"gradmatch: the logits of {type(model).__name__} are not its last nn.Linear's output")
    features = seen[0][0].float()
    if layers[-1].bias is not None:
        features = torch.cat([features, features.new_ones(len(features), 1)], dim=1)
    errors = logits.float().softmax(dim=1) - one_hot(y, logits.shape[1])
    mean = errors.T @ features / len(x)  # ḡ: [classes, features]
    dots = ((errors @ mean) * features).sum(dim=1)
    norms = errors.norm(dim=1) * features.norm(dim=1) * mean.norm()
    return dots / norms.clamp(min=torch.finfo(norms.dtype).tiny)
