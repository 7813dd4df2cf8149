"""Which images a network gets right, clean or under attack."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from seladv.data import Images
from seladv.modes import eval_mode

Attack = Callable[[nn.Module, Tensor, Tensor], Tensor]


def correct(model: nn.Module, data: Images, *, attack: Attack | None = None, batch_size: int = 250) -> Tensor:
    """Whether each image is classified correctly [N], bool, on the CPU.

    Args:
        model: judged in eval mode and left as it was, in the precision of the surrounding autocast.
        data: the images, taken in their order.
        attack: `attack(model, x, y)` replaces the images first; clean accuracy without.
        batch_size: images per pass; memory is its only effect on a network in eval mode.
    """
    hits = []
    with eval_mode(model):
        for x, y in data.batches(batch_size):
            if attack is not None:
                x = attack(model, x, y)
            with torch.no_grad():
                hits.append(model(x).argmax(dim=1) == y)
    return torch.cat(hits).cpu()


def percent(hits: Tensor) -> float:
    """The share of true entries, in percent."""
    return 100 * hits.double().mean().item()
