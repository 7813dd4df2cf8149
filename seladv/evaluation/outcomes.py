"""What is attacked, by which members of AutoAttack, and what survives, as text short enough for a JSON file."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seladv.data.images import stream
from seladv.study.places import StudyError

MEMBERS = {
    "apgd-ce": 2,
    "apgd-t": 4,
    "fab-t": 2,
    "square": 2,
}  # of AutoAttack, in its order: the fewest classes for each


def subset(labels: Tensor, count: int) -> Tensor:
    """Indices [count], ascending, of the test images that every attack of a protocol sees, on the device of `labels`.

    A random sample, stratified: each class has its share of the test set `labels` [N], rounded by largest remainder.
    It depends on the labels and `count` alone, so all arms, seeds and attacks share it.

    Raises:
        StudyError: `count` is more than the test set has.
    """
    if count > (total := len(labels)):
        raise StudyError(f"evaluate.subset = {count}: the test set has {total} images")
    classes = labels.cpu()
    exact = classes.bincount() * count
    shares, remainders = exact // total, exact % total
    shares[remainders.argsort(descending=True, stable=True)[: count - int(shares.sum())]] += 1
    order = torch.randperm(total, generator=stream(0, "subset"))
    chosen = [order[classes[order] == label][:share] for label, share in enumerate(shares.tolist())]
    return torch.cat(chosen).sort().values.to(labels.device)


def members(classes: int) -> list[str]:
    """AutoAttack's members for so many classes: the targeted loss of APGD-T needs four logits (DLR)."""
    return [name for name, fewest in MEMBERS.items() if classes >= fewest]


def left_out(classes: int) -> str:
    """A line for before the training of a data set with too few classes for all of AutoAttack; else empty."""
    missing = [name for name in MEMBERS if name not in members(classes)]
    return f"AutoAttack will run without {', '.join(missing)}: {classes} classes are too few for it" if missing else ""


def survivors(entry: Mapping[str, Any]) -> Tensor:
    """The outcomes [N], bool, of an attack's entry (`attacks.entry`)."""
    return unpack(entry["outcomes"], entry["examples"])


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
