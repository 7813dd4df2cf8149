"""The claims, each with its margin, and how its number is measured: the rules of docs/preregistration.md as code.

A claim is a region that its number should lie in: supported where the whole interval does, not supported where none of
it does, undecided in between. A measure takes an arm's run and its reference's run of the same seed (the contents of
two metrics files).
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from math import inf
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from seladv.evaluation.outcomes import unpack
from seladv.training.cost import total_passes

Run = Mapping[str, Any]
VERDICTS = SUPPORTED, NOT_SUPPORTED, UNDECIDED = "supported", "not supported", "undecided"
NOT_RUN, NOT_MEASURED, REPORTED, FACT = "not run", "not measured", "reported", "fact"  # in a verdict's place
PRIMARY = "autoattack"  # the endpoint that decides the claims on robust accuracy
PAPER_ARMS = ("margin-50", "gradmatch-50")  # rows for these even where the plan lacks them; Holm's family
# With the control and the authors' code.
AT_MOST_HALF = r"(?:margin|gradmatch|random)-(?:[1-4]?[0-9]|50)(?:-stale)?|as-coded-\w+"
EVERY_CRITERION = r"(?!random-).+-([0-9]+)(?:-stale)?"
ITSELF = r"\g<0>"


class Plan(NamedTuple):
    """What the pre-registration names for a protocol: the attacked arms of the additive model, and how many seeds."""

    arms: tuple[str, ...]
    seeds: int


HALVES = ("random-50", *PAPER_ARMS)
PLANS = {
    "digits": Plan(("full", "full-k5", *HALVES), 3),
    "mnist": Plan(("full", "full-k20", *HALVES), 5),
    "mnist-long": Plan(("full", "random-50", "margin-50"), 5),
    "cifar10-small": Plan(("full", "full-k5", "random-50", "margin-50"), 5),
    "cifar10": Plan(("full", *HALVES), 5),
    "cifar10-200": Plan(("full", *HALVES), 5),
}


class Region(NamedTuple):
    """Where a claim says that its number lies: between two bounds."""

    low: float = -inf
    high: float = inf

    def verdict(self, low: float, high: float) -> str:
        """Of an interval from `low` to `high`."""
        inside, outside = self.low < low and high < self.high, high <= self.low or low >= self.high
        return SUPPORTED if inside else NOT_SUPPORTED if outside else UNDECIDED

    def bound(self, value: float) -> float:
        """The bound nearest to `value`."""
        return min((self.low, self.high), key=lambda bound: abs(bound - value))

    def __str__(self) -> str:
        if self.low == -inf:
            return "–" if self.high == inf else f"< {self.high:g}"
        return f"> {self.low:g}" if self.high == inf else f"{self.low:g} to {self.high:g}"


class Claim(NamedTuple):
    """`measure` of every arm that matches `arms`, against the arm that `against` names, should lie in `region`."""

    id: str
    says: str
    measure: str
    region: Region
    arms: str
    against: str  # a pattern; \1 is what the bracket in `arms` caught, {half} half of the protocol's attack steps
    always: tuple[str, ...] = PAPER_ARMS
    paper: Mapping[str, str] = {}  # what the paper reports, by data set; "" for every one
    corrected: bool = False  # Holm over the paper's criteria: either would be read as "selection works"


ON_PAR, BETTER, ALIKE, ANY = Region(low=-1), Region(low=0), Region(-1, 1), Region()
HALF, SLIGHTLY = {"mnist": "~45 %", "cifar10": "~50 %"}, {"": "slightly cheaper"}
MARGIN, EXACT, REPRODUCED = ("margin-50",), ("gradmatch-50",), "full|" + "|".join(PAPER_ARMS)
CLAIMS = (
    Claim("C1", "robust accuracy on par with full training or above", PRIMARY, ON_PAR, AT_MOST_HALF, "full",
          corrected=True),
    Claim("C1-pgd", "C1 under the protocol's PGD", "pgd", ON_PAR, AT_MOST_HALF, "full", ()),
    Claim("C2", "clean accuracy almost unchanged", "clean", ALIKE, AT_MOST_HALF, "full"),
    Claim("C3", "about half the passes of the attack", "attack_passes", Region(high=0.55), AT_MOST_HALF, "full",
          paper=HALF),
    Claim("C3-total", "C3 of all passes, scoring and update included", "total_passes", Region(high=0.55),
          AT_MOST_HALF, "full"),
    Claim("C4", "an epoch takes 40 to 50 % less time", "epoch", Region(high=0.60), AT_MOST_HALF, "full",
          paper={"": "0.5 to 0.6"}),
    Claim("C5", "margin and gradient matching perform alike", PRIMARY, ALIKE, "margin-50", "gradmatch-50", MARGIN),
    Claim("C5-cost", "margin is slightly cheaper, in all passes", "total_passes", Region(high=1), "margin-50",
          "gradmatch-50", MARGIN, SLIGHTLY),
    Claim("C5-time", "margin is slightly cheaper, in time", "epoch", Region(high=1), "margin-50", "gradmatch-50",
          MARGIN, SLIGHTLY),
    Claim("C6", "scoring by gradients is a modest part of the epoch", "scoring", Region(high=0.10),
          "gradmatch-.+", ITSELF, EXACT, {"": "modest"}),
    Claim("C7", "selection beats random selection of as many", PRIMARY, BETTER, EVERY_CRITERION, r"random-\1",
          corrected=True),
    Claim("C7-pgd", "C7 under the protocol's PGD", "pgd", BETTER, EVERY_CRITERION, r"random-\1", ()),
    Claim("E1", "C1 against full training of equal cost by half the attack steps", PRIMARY, ON_PAR,
          r".+-50(?:-stale)?", "full-k{half}"),
    Claim("E2", "C1 at equal budget: held-out PGD after as many passes", "budget", ON_PAR, AT_MOST_HALF, "full"),
    Claim("R0", "the paper's own figure: robust accuracy under PGD, %", "level_pgd", ANY, REPRODUCED, ITSELF, ()),
    Claim("R0-clean", "the paper's own figure: clean accuracy, %", "level_clean", ANY, REPRODUCED, ITSELF, ()),
)  # fmt: skip


def _entry(run: Run, endpoint: str) -> Mapping[str, Any]:
    """Of a run's metrics, what holds the endpoint's outcomes; {} where it was not measured."""
    return (run if endpoint == PRIMARY else run.get("attacks", {})).get(endpoint) or {}


def accuracy(run: Run, endpoint: str) -> float | None:
    """Percent: clean, pgd (the protocol's own, both on the whole test set) or autoattack (on the fixed subset)."""
    if endpoint == PRIMARY:
        return _entry(run, endpoint).get("robust")
    return float(run["clean" if endpoint == "clean" else "robust"])


def example_differences(runs: Sequence[Run], others: Sequence[Run], endpoint: str) -> np.ndarray | None:
    """Points by which each seed's run is ahead of its reference's on each test image [S, N].

    None where a file lacks the outcomes. All runs of a protocol saw the same images: `table.load` makes sure.
    """
    entries = [_entry(run, endpoint) for run in (*runs, *others)]
    if not all("outcomes" in entry for entry in entries):
        return None
    hits = np.array([unpack(entry["outcomes"], entry["examples"]).numpy() for entry in entries], dtype=float)
    ours, theirs = hits.reshape(2, len(runs), -1)
    return 100 * (ours - theirs)


class Measure(NamedTuple):
    """How a claim's number is taken from a run and its reference, and what it can decide."""

    unit: str  # points (a difference), percent, or ratio
    standing: str  # "" where the number is decided on; else the word that stands in the verdict's place
    value: Callable[[Run, Run], float | None] | None  # a timing has no runs
    endpoint: str = ""  # of a difference of two accuracies: it is tested by the additive model


def _points(endpoint: str, standing: str = "") -> Measure:
    def difference(run: Run, other: Run) -> float | None:
        ours, theirs = accuracy(run, endpoint), accuracy(other, endpoint)
        return None if ours is None or theirs is None else ours - theirs

    return Measure("points", standing, difference, endpoint)


def _ratio(passes: str) -> Measure:
    def ratio(run: Run, other: Run) -> float | None:
        of = other["training"]["cost"][passes]
        return run["training"]["cost"][passes] / of if of else None

    return Measure("ratio", FACT, ratio)


def _scoring(run: Run, other: Run) -> float:
    """The scoring's share of the run's own epoch, median over the epochs: what shares the machine slows both alike."""
    return median(line["seconds"]["scoring"] / line["epoch_seconds"] for line in run["training"]["history"])


def _at_equal_budget(run: Run, other: Run) -> float | None:
    """Held-out robust accuracy less the reference's, both after as many passes as the cheaper of the two took in all.

    Between two epochs the accuracy is interpolated; None where one had not finished its first epoch by then.
    """
    histories = [each["training"]["history"] for each in (run, other)]
    spent = [list(accumulate(total_passes(line["passes"]) for line in history)) for history in histories]
    budget = min(passes[-1] for passes in spent)
    if budget < max(passes[0] for passes in spent):
        return None
    robust = [[line["heldout_robust"] for line in history] for history in histories]
    ours, theirs = (np.interp(budget, *curve) for curve in zip(spent, robust, strict=True))
    return float(ours - theirs)


MEASURES = {
    "clean": _points("clean"),
    "pgd": _points("pgd", REPORTED),
    PRIMARY: _points(PRIMARY),
    "budget": Measure("points", REPORTED, _at_equal_budget),
    "level_clean": Measure("percent", REPORTED, lambda run, _: accuracy(run, "clean")),
    "level_pgd": Measure("percent", REPORTED, lambda run, _: accuracy(run, "pgd")),
    "attack_passes": _ratio("attack_passes"),
    "total_passes": _ratio("total_passes"),
    "scoring": Measure("ratio", REPORTED, _scoring),
    "epoch": Measure("ratio", REPORTED, None),
}


def rounds(timing: Mapping[str, Any], arm: str, other: str) -> list[float]:
    """Ratio of the two arms' epoch seconds in every round of a timing; [] where either was not timed.

    In a round the arms take turns on a machine that does nothing else: the n-th entries of two arms belong together.
    """
    seconds = timing.get("epoch_seconds", {})
    both = seconds.get(arm, []), seconds.get(other, [])
    return [ours / theirs for ours, theirs in zip(*both, strict=True)] if all(both) else []
