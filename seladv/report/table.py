"""The results table: from the metrics of the runs that params.yaml asks for, and of no others."""

import json
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd

from seladv.evaluation.checks import detect
from seladv.evaluation.outcomes import pack, unpack, worst_case
from seladv.report.stats import mean_and_half_width
from seladv.study.places import StudyError
from seladv.study.protocol import Protocol
from seladv.training.cost import total_passes
from seladv.training.monitor import percent

Metrics = dict[str, list[dict[str, Any]]]  # arm → one metrics file's content for each seed, in the order of params.yaml

# A further column of the table is a line here: its name, and its value for one run (None or KeyError: not measured).
MORE: dict[str, Callable[[Any], Any]] = {
    "robust_last": lambda run: run["checkpoints"]["last"]["robust"],
    "robust_best": lambda run: run["checkpoints"]["best"]["robust"],
    "autoattack": lambda run: run["attacks"]["autoattack"]["robust"],
    "worst_case": lambda run: run["worst_case"]["robust"],
}
COSTS = ("attack_cost", "total_cost", "epoch_time")  # ratios to full
MARKS = ("attack not converged", "masked gradients?", "catastrophic overfitting")
UNDER_OPTIMISED = {"steps-suffice", "white-box-beats-gradient-free"}  # checks that fail where a longer attack does more


class ResultsError(StudyError):
    """A run that the table needs is missing or broken; one line names its file."""


def load(folder: Path, protocol: Protocol) -> Metrics:
    """The metrics of every arm and seed of `protocol`; files of runs it no longer asks for are ignored.

    Some seeds face more attacks than others (`autoattack_seeds`). So that seeds can be averaged and compared, each
    run's `worst_case` is taken anew over the attacks that all of them faced.

    Raises:
        ResultsError: a file is missing or is not a run's metrics.
    """
    read = {arm: [_read(folder / f"{arm}-{seed}.json") for seed in protocol.seeds] for arm in protocol.arms}
    every = [run for runs in read.values() for run in runs]
    if not all("worst_case" in run for run in every):
        return read
    shared = min((run["worst_case"] for run in every), key=lambda worst: len(worst["attacks"]))
    return {arm: [_under(run, shared) for run in runs] for arm, runs in read.items()}


def _under(run: dict[str, Any], shared: dict[str, Any]) -> dict[str, Any]:
    """`run` with its worst case over the attacks, and as many images, as in another run's worst case, `shared`."""
    faced = [run["attacks"][name] for name in shared["attacks"]]
    hits = worst_case([unpack(each["outcomes"], each["examples"]) for each in faced], examples=shared["examples"])
    return run | {"worst_case": shared | {"robust": percent(hits), "outcomes": pack(hits)}}


def _read(path: Path) -> dict[str, Any]:
    again = f"run `dvc repro evaluate-{path.parent.name}@{path.stem}`"
    try:
        content: dict[str, Any] = json.loads(path.read_text())
        if {"clean", "robust", "training"} <= set(content):
            return content
    except FileNotFoundError:
        raise ResultsError(f"{path} is missing: {again}") from None
    except (ValueError, TypeError):
        raise ResultsError(f"{path} is not whole: {again}") from None
    raise ResultsError(f"{path} is no run's metrics: {again}")


def runs(metrics: Metrics) -> pd.DataFrame:
    """A row per run: arm, seed, accuracies in percent, costs (passes; seconds of the median epoch), hours, marks."""
    rows = []
    for arm, of_arm in metrics.items():
        for run in of_arm:
            made = run["training"]
            seconds = [line["epoch_seconds"] for line in made["history"]]
            row = {"arm": arm, "seed": run["seed"], "clean": run["clean"], "robust": run["robust"]}
            row |= {name: _found(find, run) for name, find in MORE.items()}
            row |= {"attack_cost": made["cost"]["attack_passes"], "total_cost": made["cost"]["total_passes"]}
            # The median: an epoch that shared the machine with something else does not count.
            row |= {"epoch_time": median(seconds), "training_hours": sum(seconds) / 3600}
            row |= {"evaluation_hours": run["evaluation"]["seconds"] / 3600, "device": made["device"]}
            rows.append(row | {"marks": ", ".join(marks(run))})
    return pd.DataFrame(rows).astype(dict.fromkeys(("clean", "robust", *MORE, *COSTS), float))


def _found(find: Callable[[Any], Any], run: dict[str, Any]) -> Any:
    try:
        return find(run)
    except KeyError:
        return None


def table(runs: pd.DataFrame, protocol: Protocol) -> pd.DataFrame:
    """A row per arm, in the order of params.yaml; the contract's thirteen columns, then `MORE` and `marks`.

    Accuracies are percent, means over the seeds; `_ci` is the half-width of a 95 % interval over seeds (none for one
    seed); `robust_minus_full` pairs each seed with `full`'s. `attack_cost` (PGD passes), `total_cost` (all passes,
    scoring included) and `epoch_time` are ratios to `full`, means over the seeds, empty without it.
    """
    by_seed = {str(arm): of_arm.set_index("seed") for arm, of_arm in runs.groupby("arm", sort=False)}
    full = by_seed.get("full")
    rows = []
    for arm, of_arm in by_seed.items():
        row: dict[str, Any] = {"arm": arm, "seeds": len(of_arm)}
        for column in ("clean", "robust"):
            row[column], row[f"{column}_ci"] = mean_and_half_width(of_arm[column].tolist())
        row |= dict.fromkeys(("robust_minus_full", "robust_minus_full_ci", *COSTS))
        if full is not None:
            difference = mean_and_half_width((of_arm["robust"] - full["robust"]).tolist())
            row["robust_minus_full"], row["robust_minus_full_ci"] = (0.0, None) if arm == "full" else difference
            row |= {column: (of_arm[column] / full[column]).mean() for column in COSTS}
        published = protocol.paper.get(arm)
        row |= {"paper_clean": published and published.clean, "paper_robust": published and published.robust}
        row |= {column: of_arm[column].mean() for column in MORE}
        found = {mark: [str(seed) for seed, line in of_arm["marks"].items() if mark in line] for mark in MARKS}
        row["marks"] = "; ".join(f"{mark} (seed {', '.join(seeds)})" for mark, seeds in found.items() if seeds)
        rows.append(row)
    numbers = [column for column in rows[0] if column not in ("arm", "seeds", "marks")]
    return pd.DataFrame(rows).astype(dict.fromkeys(numbers, float))


def marks(run: dict[str, Any]) -> list[str]:
    """What makes a run's robust accuracy doubtful, of `MARKS`."""
    failed = {item["check"] for item in run.get("checklist", []) if not item["passed"]}
    attacked = run["training"]["cost"]["attack_passes"] > 0
    overfitted = attacked and detect(run["training"]["history"]).happened
    found = (failed & UNDER_OPTIMISED, failed - UNDER_OPTIMISED, overfitted)
    return [mark for mark, happened in zip(MARKS, found, strict=True) if happened]


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """The table for people: percent with their intervals, a dash for none, no column that is empty throughout."""
    shown = pd.DataFrame({"arm": table["arm"]})
    for column in table.columns[2:-1]:
        if column.endswith("_ci") or table[column].isna().all():
            continue
        digits, sign = (2 if column in COSTS else 1), ("+" if column == "robust_minus_full" else "")
        halves = table[f"{column}_ci"] if f"{column}_ci" in table else [None] * len(table)
        title = {"autoattack": "AutoAttack", "robust_minus_full": "robust − full"}.get(column, column.replace("_", " "))
        shown[title] = [_number(*pair, digits=digits, sign=sign) for pair in zip(table[column], halves, strict=True)]
    return shown.assign(marks=table["marks"]) if table["marks"].any() else shown


def _number(value: float, half_width: float | None = None, *, digits: int = 1, sign: str = "") -> str:
    if pd.isna(value):
        return "–"
    text = f"{value:{sign}z.{digits}f}"  # z: no minus before what is rounded to nothing
    return text if half_width is None or pd.isna(half_width) else f"{text} ± {half_width:.{digits}f}"


def epochs(metrics: Metrics) -> pd.DataFrame:
    """A row per run and epoch: loss, held-out accuracies in percent, passes so far, seconds of each phase, classes."""
    rows = []
    for arm, of_arm in metrics.items():
        for run in of_arm:
            passes = 0
            for line in run["training"]["history"]:
                passes += total_passes(line["passes"])
                row = {"arm": arm, "seed": run["seed"], "passes": passes, "classes": line["selected_classes"]}
                row |= {name: line[name] for name in ("epoch", "loss", "heldout_clean", "heldout_robust")}
                seconds = {phase: line["seconds"][phase] for phase in ("scoring", "attack", "update")}
                rows.append(row | seconds | {"rest": line["epoch_seconds"] - sum(seconds.values())})
    return pd.DataFrame(rows)


def to_csv(frame: pd.DataFrame) -> bytes:
    """A table for programs: three decimals, empty where there is no value."""
    return frame.to_csv(index=False, float_format="%.3f", lineterminator="\n").encode()
