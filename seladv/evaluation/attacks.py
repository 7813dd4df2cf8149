"""What the evaluation's attacks share: full precision, noise, and whom an attack still has to break."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from seladv.data.images import Images
from seladv.evaluation.outcomes import pack
from seladv.training.monitor import Attack, correct, percent


@contextmanager
def full_fp32() -> Iterator[None]:
    """No TF32 on a GPU inside the block: gradients with a ten-bit mantissa make an attack weaker."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32
    try:
        cudnn.allow_tf32 = matmul.allow_tf32 = False
        yield
    finally:
        cudnn.allow_tf32, matmul.allow_tf32 = before


def sign_noise(x: Tensor, *, eps: float, generator: torch.Generator | None = None) -> Tensor:
    """`x` with every value moved by `eps` up or down at random, in [0, 1]: the largest noise that the ball allows."""
    up = torch.empty_like(x).uniform_(-1, 1, generator=generator).sign()
    return (x + eps * up).clamp(0, 1)


def surviving(model: nn.Module, data: Images, alive: Tensor, attack: Attack) -> Tensor:
    """Those of `alive` [N], bool, that `attack` leaves alive [N].

    Only images that are still alive are attacked: for a per-example worst case that is exact, and cheaper.
    """
    if not alive.any():
        return alive.clone()
    index = alive.nonzero()[:, 0]  # on the CPU, which may index images and labels wherever they are
    left = alive.clone()
    left[alive] = correct(model, Images(data.images[index], data.labels[index]), attack=attack)
    return left


def entry(hits: Tensor) -> dict[str, Any]:
    """What a file says of outcomes [N], bool: robust accuracy in percent, N, and the outcomes themselves."""
    return {"robust": percent(hits), "examples": len(hits), "outcomes": pack(hits)}
