"""Which images a network still gets right, as a string short enough for a metrics file."""

import numpy as np
import torch
from torch import Tensor


def pack(hits: Tensor) -> str:
    """`hits` [N], bool, as hexadecimal text: two digits for every eight images, in their order.

    Bit i is image i, the first image the highest bit of the first digit; the last byte is filled up with zeros.
    """
    return np.packbits(hits.cpu().numpy().astype(bool)).tobytes().hex()


def unpack(text: str, n: int) -> Tensor:
    """The [n] bool that `pack` wrote.

    Raises:
        ValueError: `text` is not what `pack` writes for n images.
    """
    try:
        packed = np.frombuffer(bytes.fromhex(text), dtype=np.uint8)
    except ValueError:
        raise ValueError(f"outcomes: {text[:20]!r} is not hexadecimal") from None
    if len(packed) != -(-n // 8):
        raise ValueError(f"outcomes: {len(packed)} bytes hold no {n} images, {-(-n // 8)} bytes do")
    if np.unpackbits(packed)[n:].any():
        raise ValueError(f"outcomes: bits are set beyond the last of {n} images")
    return torch.from_numpy(np.unpackbits(packed, count=n).astype(bool))


def worst_case(hits: list[Tensor]) -> Tensor:
    """The images that survive everything [M], bool: of the first M, which all of `hits` [N_j] cover.

    Raises:
        ValueError: no outcomes at all.
    """
    if not hits:
        raise ValueError("worst case: no outcomes to take it over")
    seen = min(len(each) for each in hits)
    return torch.stack([each[:seen] for each in hits]).all(dim=0)
