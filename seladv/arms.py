"""An arm's name says what is attacked: `clean`, `full` or `<criterion>-<percent>`."""

import re
from typing import NamedTuple

import torch
from torch import LongTensor, Tensor, nn

from seladv.selection import SELECTORS


class Arm(NamedTuple):
    """A way to choose: `percent` of every batch, by `criterion` (none is needed for all or nothing)."""

    criterion: str | None
    percent: int

    def count(self, batch: int) -> int:
        """How many of `batch` samples are attacked: k = r·B, rounded down (paper, section "method", step 2)."""
        return batch * self.percent // 100

    def choose(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator | None) -> LongTensor:
        """Indices [k] of the samples to attack. Nothing is scored where all or none are."""
        k = self.count(len(x))
        if self.criterion is None or k in (0, len(x)):
            return torch.arange(k, device=x.device)  # type: ignore[return-value]
        return SELECTORS[self.criterion](model, x, y, k, generator=generator)


def parse(name: str) -> Arm:
    """Read an arm's name.

    Raises:
        ValueError: not `clean`, `full` or a known criterion with a whole percentage from 1 to 100.
    """
    if name in ("clean", "full"):
        return Arm(None, 100 if name == "full" else 0)
    match = re.fullmatch(r"(.+)-([1-9][0-9]?|100)", name)
    if match is None or match[1] not in SELECTORS:
        raise ValueError(
            f"an arm is clean, full or <criterion>-<percent>, with criterion one of {', '.join(SELECTORS)} "
            "and percent a whole number from 1 to 100"
        )
    return Arm(match[1], int(match[2]))
