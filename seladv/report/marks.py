"""What makes a run's robust accuracy doubtful: marks, each with its figure, from the stored outcomes.

A robust accuracy is an upper bound: it tells what an attack did not break. *PGD not converged*: with twice the steps it
breaks more. *PGD overstates*: AutoAttack leaves fewer of the same images. *gradients misled*: attacks that follow the
gradient are beaten by one that does not, after Carlini et al. 2019 ("On Evaluating Adversarial Robustness").
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from math import floor, log2
from typing import Any, NamedTuple

import torch
from scipy.stats import binomtest
from torch import Tensor

from seladv.evaluation.outcomes import survivors
from seladv.report import stats
from seladv.study.places import StudyError
from seladv.training.monitor import percent

Run = Mapping[str, Any]
Key = tuple[str, int]  # arm, seed

NOT_CONVERGED, OVERSTATES, MISLED = "PGD not converged", "PGD overstates", "gradients misled"
OVERFITTING, WARNS, UNCOMMITTED = "catastrophic overfitting", "AutoAttack warns", "uncommitted code"
MARKS = (NOT_CONVERGED, OVERSTATES, MISLED, OVERFITTING, WARNS, UNCOMMITTED)
OVERSTATED = 3.0  # points, from which on PGD is marked
ENOUGH = 500  # pairs, from which on a check need not say what it can see
JUMP = 15.0  # points: far above an epoch's noise in a gap, far below the collapse itself, which is 30 and more
RECENT = 3  # epochs: a collapse takes one or two; robust overfitting, which is another thing, takes dozens


class Mark(NamedTuple):
    """One of `MARKS`, and its figure as text."""

    name: str
    figure: str = ""


def on_subset(run: Run) -> dict[str, Tensor]:
    """Every attack's outcomes on the protocol's subset [n], bool; AutoAttack's members cumulatively, in their order."""
    chosen = torch.tensor(run["evaluation"]["subset"])
    found = {}
    for name, entry in run["attacks"].items():
        hits = survivors(entry)
        found[name] = hits if len(hits) == len(chosen) else hits[chosen]
    return found | {name: survivors(entry) for name, entry in run["autoattack"]["members"].items()}


def worst(run: Run) -> Tensor:
    """The images of the subset [n], bool, that are right under every attack, AutoAttack included."""
    return torch.stack([*on_subset(run).values()]).all(dim=0)


def overstated(run: Run) -> float:
    """Points by which the protocol's own PGD is above AutoAttack on the same images."""
    return percent(on_subset(run)["pgd"]) - run["autoattack"]["robust"]


def find(metrics: Mapping[str, Sequence[Run]], transfer: Mapping[str, Any] | None = None) -> dict[Key, list[Mark]]:
    """The marks of every run of a protocol, by arm and seed.

    Args:
        metrics: arm → its runs, as `report.table.load` reads them.
        transfer: results/transfer/<protocol>.json, where it has been made.

    Raises:
        StudyError: `transfer` is of other images than the runs.
    """
    runs = {(arm, run["seed"]): run for arm, of_arm in metrics.items() for run in of_arm}
    if transfer and any(run["evaluation"]["subset"] != transfer["subset"] for run in runs.values()):
        name = f"transfer-{transfer['protocol']}"
        raise StudyError(f"{name} attacked other images than the runs: run `dvc repro --single-item {name}`")
    misled = _misled(runs, (transfer or {}).get("pairs", []))
    return {key: [*_of_run(run), *misled[key]] for key, run in runs.items()}


def resolution(metrics: Mapping[str, Sequence[Run]]) -> str:
    """What differences the sign tests of a protocol can see, where the subset is small; else empty."""
    runs = [run for of_arm in metrics.values() for run in of_arm]
    if (n := len(runs[0]["evaluation"]["subset"])) >= ENOUGH:
        return ""
    # The fewest images that, all on one side, are significant: 2^-k < level, over the tests that Holm corrects for.
    alone, first = (100 * (floor(log2(tests / stats.LEVEL)) + 1) / n for tests in (1, len(runs)))
    return (
        f"On {n} images a lack of convergence is seen from {alone:.1f} points on, misled gradients from {first:.1f} on."
    )


def _of_run(run: Run) -> Iterator[Mark]:
    at = {point["steps"]: survivors(point) for point in run["curves"]["steps"]}
    steps = run["evaluation"]["steps"]
    if _sign_test(at[steps], at[2 * steps]) < stats.LEVEL:
        yield Mark(NOT_CONVERGED, f"−{percent(at[steps]) - percent(at[2 * steps]):.1f}")
    if (points := overstated(run)) >= OVERSTATED - stats.SAME:
        yield Mark(OVERSTATES, f"by {points:.1f}")
    if run["training"]["cost"]["attack_passes"] > 0 and detect(run["training"]["history"]).happened:
        yield Mark(OVERFITTING)
    for line in run["autoattack"]["warnings"]:
        yield Mark(WARNS, re.split(r"(?<=[.!])\s", line)[0].rstrip(".!"))  # the first sentence
    made = (run["training"], run["evaluation"], run["autoattack"])
    if any(str(part.get("revision", "")).endswith("-dirty") for part in made):
        yield Mark(UNCOMMITTED)


def _misled(runs: Mapping[Key, Run], pairs: Sequence[Mapping[str, Any]]) -> dict[Key, list[Mark]]:
    """The third mark: by Holm over the tests of one kind, or by what needs no test."""
    found: dict[Key, list[Mark]] = {key: [] for key in runs}
    tests: dict[str, list[tuple[Key, str, float]]] = {}
    for key, run in runs.items():
        hits = on_subset(run)
        many = hits["pgd"] & hits["pgd-strong"]
        best = many & hits["fgsm"]
        for name in run["autoattack"]["members"]:
            best &= hits[name] if name != "square" else best
        # Square attacks only what AutoAttack's other members leave: it can add to them, and not fall behind.
        tried = {"Square": (best, best & hits["square"]), "noise": (best, hits["noise"]), "FGSM": (many, hits["fgsm"])}
        for pair in pairs:
            if (pair["target"], pair["seed"]) == key and pair["source"] != pair["target"]:
                tried[f"transfer from {pair['source']}"] = (best, survivors(pair))
        for name, (own, other) in tried.items():
            figure = f"{name} breaks {int((own & ~other).sum())} of {len(own)} more"
            tests.setdefault(name.split()[0], []).append((key, figure, _sign_test(own, other)))
        if run["zero_gradients"]:
            found[key].append(Mark(MISLED, f"{run['zero_gradients']} of {len(best)} gradients are zero"))
        if (left := run["curves"]["eps"][-1])["robust"] > 0:
            found[key].append(Mark(MISLED, f"{left['robust']:.1f} % survive eps = {left['eps']:.2g}"))
    for of_kind in tests.values():
        for (key, figure, _), p in zip(of_kind, stats.holm([p for *_, p in of_kind]), strict=True):
            if p < stats.LEVEL:
                found[key].append(Mark(MISLED, figure))
    return found


def _sign_test(own: Tensor, other: Tensor) -> float:
    """One-sided p that `other` breaks no more of the images on which the two attacks differ (McNemar, exact)."""
    lost, won = int((own & ~other).sum()), int((other & ~own).sum())
    return float(binomtest(lost, lost + won, alternative="greater").pvalue) if lost + won else 1.0


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
