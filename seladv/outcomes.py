"""Which test examples a network got right, as text small enough for a metrics file: one bit each, in hexadecimal."""

import numpy as np
import torch
from torch import Tensor


def pack(hits: Tensor) -> str:
    """`hits` [N], bool, eight to a byte (the first one its highest bit), as hexadecimal."""
    return np.packbits(hits.cpu().numpy()).tobytes().hex()


def unpack(text: str, count: int) -> Tensor:
    """The `count` bools [N] that `pack` wrote.

    Raises:
        ValueError: the text is no hexadecimal, or holds another number of bytes.
    """
    packed = np.frombuffer(bytes.fromhex(text), dtype=np.uint8)
    if len(packed) != -(-count // 8):
        raise ValueError(f"{len(packed)} bytes of outcomes: {count} examples take {-(-count // 8)}")
    return torch.from_numpy(np.unpackbits(packed, count=count).astype(bool))
