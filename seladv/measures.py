"""What a claim is about, in numbers: one for each pair of runs of one seed, or for each round of a timing.

A measure takes an arm's run and its reference's run of the same seed (metrics files' contents).
"""

from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor

from seladv import outcomes
from seladv.accuracy import percent

Run = Mapping[str, Any]
ATTACKS = {"clean": ("clean",), "robust": ("clean", "pgd")}  # what an example must survive; `worst`: all there is


def hits(run: Run, kind: str) -> Tensor | None:
    """Whether each test example is right [N], bool; `kind` is clean, robust (under PGD) or worst (under every attack).

    None where the run's file lacks the outcomes; the first N examples where an attack saw fewer than another.
    """
    attacks = run.get("attacks") or {}
    names = ATTACKS.get(kind, tuple(attacks))
    known = [attacks[name] for name in names if "outcomes" in attacks.get(name, {})]
    if not names or len(known) < len(names) or (kind == "worst" and "autoattack" not in attacks):
        return None
    count = min(attack["examples"] for attack in known)
    parts = [outcomes.unpack(attack["outcomes"], attack["examples"])[:count] for attack in known]
    return torch.stack(parts).all(dim=0)


def accuracy(run: Run, kind: str) -> float | None:
    """Accuracy, percent: clean, robust or worst; None where it was not measured."""
    if kind in run:
        return float(run[kind])
    found = hits(run, kind)
    return None if found is None else percent(found)


def example_differences(runs: Sequence[Run], others: Sequence[Run], kind: str) -> list[float] | None:
    """For each test example, points by which `runs` are ahead of `others`, mean over the seeds [N]; None as `hits`."""
    pairs = [(hits(run, kind), hits(other, kind)) for run, other in zip(runs, others, strict=True)]
    if any(ours is None or theirs is None or len(ours) != len(theirs) for ours, theirs in pairs):
        return None
    return torch.stack([100 * (ours.double() - theirs.double()) for ours, theirs in pairs]).mean(dim=0).tolist()  # type: ignore[union-attr]


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
