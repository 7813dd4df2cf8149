"""The paper's claims, each with the margin that was set before any result.

A claim is a region that its number should lie in: supported where the whole interval does, not supported where none of
it does, undecided in between.
"""

from collections.abc import Mapping
from math import inf
from typing import NamedTuple

VERDICTS = SUPPORTED, NOT_SUPPORTED, UNDECIDED, NOT_RUN = "supported", "not supported", "undecided", "not run"
PAPER_ARMS = ("margin-50", "gradmatch-50")  # rows for these even where the plan lacks them
AT_MOST_HALF = (
    r"(?:margin|gradmatch|random)-(?:[1-4]?[0-9]|50)(?:-stale)?|as-coded-\w+"  # with the control and the authors' code
)
EVERY_CRITERION = r"(?!random-).+-([0-9]+)(?:-stale)?"
ITSELF = r"\g<0>"


class Region(NamedTuple):
    """Where a claim says that its number lies: between two bounds, of which `closed` counts as inside."""

    low: float = -inf
    high: float = inf
    closed: bool = False

    def verdict(self, low: float, high: float) -> str:
        """Of an interval from `low` to `high`."""
        inside = self.low <= low and high <= self.high if self.closed else self.low < low and high < self.high
        outside = high < self.low or low > self.high if self.closed else high <= self.low or low >= self.high
        return SUPPORTED if inside else NOT_SUPPORTED if outside else UNDECIDED

    def bound(self, value: float) -> float:
        """The bound nearest to `value`."""
        return min((self.low, self.high), key=lambda bound: abs(bound - value))

    def __str__(self) -> str:
        equal = "≤" if self.closed else "<"
        if self.high == inf:
            return f"{'≥' if self.closed else '>'} {self.low:g}"
        return f"{equal} {self.high:g}" if self.low == -inf else f"{self.low:g} to {self.high:g}"


class Claim(NamedTuple):
    """`measure` of every arm that matches `arms`, against the arm that `against` names, should lie in `region`."""

    id: str
    says: str
    measure: str
    region: Region
    arms: str
    against: str  # a pattern; \1 is what the bracket in `arms` caught
    always: tuple[str, ...] = PAPER_ARMS
    paper: Mapping[str, str] = {}  # what the paper reports, by data set; "" for every one
    corrected: bool = False  # Holm over the claim's arms: any one of them would be read as "selection matters"


ON_PAR, BETTER = Region(low=-1), Region(low=0)
HALF = {"mnist": "~45 %", "cifar10": "~50 %"}
CLAIMS = (
    Claim("C1", "robust accuracy on par with full training or above", "robust", ON_PAR, AT_MOST_HALF, "full"),
    Claim("C1-worst", "C1 under every attack that all seeds faced", "worst", ON_PAR, AT_MOST_HALF, "full", ()),
    Claim("C2", "clean accuracy almost unchanged", "clean", ON_PAR, AT_MOST_HALF, "full"),
    Claim("C3", "about half the passes of the attack", "attack_passes", Region(high=0.55, closed=True), AT_MOST_HALF,
          "full", paper=HALF),
    Claim("C3-total", "C3 of all passes, scoring and update included", "total_passes",
          Region(high=0.55, closed=True), AT_MOST_HALF, "full"),
    Claim("C4", "an epoch takes 40 to 50 % less time", "epoch", Region(high=0.60, closed=True), AT_MOST_HALF, "full",
          paper={"": "0.5 to 0.6"}),
    Claim("C5", "margin and gradient matching perform alike", "robust", Region(-1, 1), "margin-50", "gradmatch-50",
          ("margin-50",)),
    Claim("C5-cost", "margin is slightly cheaper, in all passes", "total_passes", Region(high=1), "margin-50",
          "gradmatch-50", ("margin-50",), {"": "slightly cheaper"}),
    Claim("C5-time", "margin is slightly cheaper, in time", "epoch", Region(high=1), "margin-50", "gradmatch-50",
          ("margin-50",), {"": "slightly cheaper"}),
    Claim("C6", "scoring by gradients is a modest part of the epoch", "scoring", Region(high=0.10, closed=True),
          "gradmatch-.+", ITSELF, ("gradmatch-50",), {"": "modest"}),
    Claim("C7", "selection beats random selection of as many", "robust", BETTER, EVERY_CRITERION, r"random-\1",
          corrected=True),
    Claim("C7-worst", "C7 under every attack that all seeds faced", "worst", BETTER, EVERY_CRITERION, r"random-\1", (),
          corrected=True),
    Claim("E1", "C1 against full training of equal cost (fewer attack steps)", "robust", ON_PAR, "margin-50",
          "full-k[0-9]+", ("margin-50",)),
)  # fmt: skip
