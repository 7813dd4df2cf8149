"""Catastrophic overfitting: a network that suddenly resists one step only, while a longer attack breaks it."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

JUMP = (
    15.0  # points: far above what an epoch's noise does to a gap, far below the collapse itself, which is 30 and more
)
RECENT = 3  # epochs: a collapse takes one or two, robust overfitting, which is another thing, takes dozens


class Overfitting(NamedTuple):
    """Whether it happened and in which epoch it began; the widest gap, points, of the epochs that measured one."""

    happened: bool
    epoch: int | None
    widest_gap: float | None


def detect(history: Sequence[Mapping[str, Any]], *, jump: float = JUMP) -> Overfitting:
    """Find the epoch where the gap between FGSM and PGD accuracy on the held-out images jumps (Wong et al. 2020).

    It jumps in the first epoch whose gap is more than `jump` points above the smallest of the `RECENT` epochs
    before it, while PGD accuracy is below the best of these: the gap of a young network may also grow because it
    gets better against one step first. A jump that training recovers from later is still one.

    Args:
        history: a line for every epoch with `epoch`, `heldout_robust` (PGD) and `heldout_fgsm`, percent, of an arm
            that attacks. Lines without `heldout_fgsm` are passed over; without any, nothing is found and
            `widest_gap` is None.
        jump: points.
    """
    measured = [line for line in history if line.get("heldout_fgsm") is not None]
    gaps = [line["heldout_fgsm"] - line["heldout_robust"] for line in measured]
    for now in range(1, len(measured)):
        recent = range(max(0, now - RECENT), now)
        widened = gaps[now] - min(gaps[before] for before in recent) > jump
        broken = measured[now]["heldout_robust"] < max(measured[before]["heldout_robust"] for before in recent)
        if widened and broken:
            return Overfitting(True, measured[now]["epoch"], max(gaps))
    return Overfitting(False, None, max(gaps, default=None))
