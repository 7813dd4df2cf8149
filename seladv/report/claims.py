"""The paper's claims, each with the margin that was set before any result, and how its number is measured.

A claim is a region that its number should lie in: supported where the whole interval does, not supported where none of
it does, undecided in between. A measure takes an arm's run and its reference's run of the same seed (the contents of
two metrics files).
"""

from collections.abc import Callable, Mapping, Sequence
from math import inf
from statistics import median
from typing import Any, NamedTuple

import torch

from seladv.evaluation.outcomes import unpack

Run = Mapping[str, Any]
ATTACKS = {"clean": "clean", "robust": "pgd"}  # a metrics file's name for the measure's attack
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


def _entry(run: Run, kind: str) -> Mapping[str, Any] | None:
    """Of a run's metrics, what `kind` was measured by: its attack's entry, or the worst case over all attacks."""
    return run.get("worst_case") if kind == "worst" else run.get("attacks", {}).get(ATTACKS[kind])


def accuracy(run: Run, kind: str) -> float | None:
    """Percent: clean, robust (under the protocol's PGD) or worst (under every attack); None where not measured."""
    if kind in run:
        return float(run[kind])
    entry = _entry(run, kind)
    return None if entry is None else float(entry["robust"])


def example_differences(runs: Sequence[Run], others: Sequence[Run], kind: str) -> list[float] | None:
    """For each test example, points by which `runs` are ahead of `others`, mean over the seeds [N].

    None where a file lacks the outcomes, or where two do not hold the same number of examples.
    """
    pairs = [(_entry(run, kind), _entry(other, kind)) for run, other in zip(runs, others, strict=True)]
    entries = [entry for pair in pairs for entry in pair if entry and "outcomes" in entry]
    counts = {entry["examples"] for entry in entries}
    if len(entries) < 2 * len(pairs) or len(counts) != 1:
        return None
    hits = torch.stack([unpack(entry["outcomes"], entry["examples"]) for entry in entries]).double()
    return (100 * (hits[::2] - hits[1::2])).mean(dim=0).tolist()


class Measure(NamedTuple):
    """How a claim's number is taken, and what its ends are made of."""

    unit: str  # points, or a ratio
    over: (
        str  # seeds: a t-interval over them. counts: exact, so the ends are the least and the greatest. rounds: timed.
    )
    value: Callable[[Run, Run], float | None] | None  # of a run and its reference; a timing has no runs


def _points(kind: str) -> Measure:
    def difference(run: Run, other: Run) -> float | None:
        ours, theirs = accuracy(run, kind), accuracy(other, kind)
        return None if ours is None or theirs is None else ours - theirs

    return Measure("points", "seeds", difference)


def _ratio(passes: str) -> Measure:
    def ratio(run: Run, other: Run) -> float | None:
        of = other["training"]["cost"][passes]
        return run["training"]["cost"][passes] / of if of else None

    return Measure("ratio", "counts", ratio)


def _scoring(run: Run, other: Run) -> float:
    """The scoring's share of the run's own epoch, median over the epochs: what shares the machine slows both alike."""
    return median(line["seconds"]["scoring"] / line["epoch_seconds"] for line in run["training"]["history"])


MEASURES = {
    "clean": _points("clean"),
    "robust": _points("robust"),
    "worst": _points("worst"),
    "attack_passes": _ratio("attack_passes"),
    "total_passes": _ratio("total_passes"),
    "scoring": Measure("ratio", "seeds", _scoring),
    "epoch": Measure("ratio", "rounds", None),
}


def rounds(timing: Mapping[str, Any], arm: str, other: str) -> list[float]:
    """Ratio of the two arms' epoch seconds in every round of a timing; [] where either was not timed.

    `timing` is results/timing/<protocol>.json: {"machine": {...}, "epoch_seconds": {arm: [seconds per round, ...]}}.
    A round times one epoch of every arm, one straight after the other, on a machine that does nothing else; so the
    n-th entries of two arms belong together.

    Raises:
        ValueError: the two arms were timed in a different number of rounds.
    """
    seconds = timing.get("epoch_seconds", {})
    if arm not in seconds or other not in seconds:
        return []
    if len(seconds[arm]) != len(seconds[other]):
        raise ValueError(f"timing: {arm} has {len(seconds[arm])} rounds, {other} {len(seconds[other])}; time them anew")
    return [ours / theirs for ours, theirs in zip(seconds[arm], seconds[other], strict=True)]
