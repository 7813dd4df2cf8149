"""What a claim is about, in numbers: one for each pair of runs of one seed, or for each round of a timing.

A measure takes an arm's run and its reference's run of the same seed (metrics files' contents).
"""

from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple

import torch

from seladv.evaluation.outcomes import unpack

Run = Mapping[str, Any]
ATTACKS = {"clean": "clean", "robust": "pgd"}  # a metrics file's name for the measure's attack


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
