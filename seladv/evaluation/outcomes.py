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


def worst_case(hits: list[Tensor], *, examples: int | None = None) -> Tensor:
    """The images that survive every attack that saw them [M], bool.

    Args:
        hits: outcomes [N_j], bool, of each attack; every one saw the first images.
        examples: M, over how many of the first images; as many as all attacks saw where it is not given.

    Raises:
        ValueError: no outcomes at all, or none of so many images.
    """
    if not hits:
        raise ValueError("worst case: no outcomes to take it over")
    examples = min(map(len, hits)) if examples is None else examples
    if examples > max(map(len, hits)):
        raise ValueError(f"worst case: no attack saw {examples} images")
    worst = torch.ones(examples, dtype=torch.bool)
    for each in hits:
        worst[: len(each)] &= each[:examples].cpu()
    return worst
