"""The results table: from the metrics of the runs that params.yaml asks for, and of no others."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

import pandas as pd

from seladv.evaluation.checks import detect
from seladv.evaluation.outcomes import pack, unpack, worst_case
from seladv.report.stats import mean_and_half_width
from seladv.study.places import StudyError
from seladv.study.protocol import Protocol
from seladv.training.monitor import percent

Metrics = dict[str, list[dict[str, Any]]]  # arm → one metrics file's content for each seed, in the order of params.yaml

COSTS = ("attack_cost", "total_cost", "epoch_time")
MORE: dict[str, Callable[[Any], Any]] = {  # further columns, percent; empty where no seed has them
    "robust_last": lambda run: run["checkpoints"]["last"]["robust"],
    "robust_best": lambda run: run["checkpoints"]["best"]["robust"],
    "autoattack": lambda run: run["attacks"]["autoattack"]["robust"],
    "worst_case": lambda run: run["worst_case"]["robust"],
}
UNDER_OPTIMISED = ("steps-suffice", "white-box-beats-gradient-free")  # checks that fail where a longer attack does more


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


def table(metrics: Metrics, protocol: Protocol) -> pd.DataFrame:
    """A row per arm, in the order of params.yaml; the contract's thirteen columns, then `MORE` and `marks`.

    Accuracies are percent, means over the seeds; `_ci` is the half-width of a 95 % interval over seeds (none for one
    seed); `robust_minus_full` pairs each seed with `full`'s. `attack_cost` (PGD passes), `total_cost` (all passes,
    scoring included) and `epoch_time` (the runs' median epochs) are ratios to `full`, empty without it.
    """
    full = metrics.get("full")
    rows = []
    for arm, runs in metrics.items():
        clean, clean_ci = mean_and_half_width([run["clean"] for run in runs])
        robust, robust_ci = mean_and_half_width([run["robust"] for run in runs])
        row: dict[str, Any] = {"arm": arm, "seeds": len(runs), "clean": clean, "clean_ci": clean_ci}
        row |= {"robust": robust, "robust_ci": robust_ci, "robust_minus_full": None, "robust_minus_full_ci": None}
        row |= dict.fromkeys(COSTS)
        if full:
            pairs = list(zip(runs, full, strict=True))
            difference = mean_and_half_width([run["robust"] - other["robust"] for run, other in pairs])
            row["robust_minus_full"], row["robust_minus_full_ci"] = (0.0, None) if arm == "full" else difference
            row |= {column: mean(_cost(run, column) / _cost(other, column) for run, other in pairs) for column in COSTS}
        published = protocol.paper.get(arm)
        row["paper_clean"] = published.clean if published else None
        row["paper_robust"] = published.robust if published else None
        rows.append(row | _more(runs))
    columns = [column for column in rows[0] if column not in ("arm", "seeds", "marks")]
    return pd.DataFrame(rows).astype(dict.fromkeys(columns, float))


def _cost(run: dict[str, Any], column: str) -> float:
    training = run["training"]
    if column == "epoch_time":  # the median: one epoch that shared the machine with something else does not count
        return median(line["epoch_seconds"] for line in training["history"])
    return float(training["cost"]["attack_passes" if column == "attack_cost" else "total_passes"])


def _more(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The further columns: means over the seeds that have them, and the marks with the seeds that they concern."""
    row: dict[str, Any] = {}
    for column, find in MORE.items():
        values = []
        for run in runs:
            try:
                values.append(find(run))
            except KeyError:
                continue
        row[column] = mean(values) if values else None
    seeds = {mark: [str(run["seed"]) for run in runs if mark in marks(run)] for mark in MARKS}
    row["marks"] = "; ".join(f"{mark} (seed {', '.join(which)})" for mark, which in seeds.items() if which)
    return row


MARKS = ("attack not converged", "masked gradients?", "catastrophic overfitting")


def marks(run: dict[str, Any]) -> list[str]:
    """What makes a run's robust accuracy doubtful, of `MARKS`."""
    failed = {item["check"] for item in run.get("checklist", []) if not item["passed"]}
    attacked = run["training"]["cost"].get("attack_passes", 0) > 0
    overfitted = attacked and detect(run["training"]["history"]).happened
    found = (failed & {*UNDER_OPTIMISED}, failed - {*UNDER_OPTIMISED}, overfitted)
    return [mark for mark, happened in zip(MARKS, found, strict=True) if happened]


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """The table for people: percent with their intervals, a dash for none, no column that is empty throughout."""
    shown = pd.DataFrame({"arm": table["arm"]})
    for column, title in {"clean": "clean, %", "robust": "robust, %", "robust_minus_full": "robust − full"}.items():
        sign = "+" if column == "robust_minus_full" else ""
        shown[title] = [
            _number(value, half, sign=sign) for value, half in zip(table[column], table[f"{column}_ci"], strict=True)
        ]
    for column in COSTS:
        shown[column.replace("_", " ")] = [_number(value, digits=2) for value in table[column]]
    for column in (*MORE, "paper_clean", "paper_robust"):
        if table[column].notna().any():
            shown[f"{column.replace('_', ' ').replace('autoattack', 'AutoAttack')}, %"] = table[column].map(_number)
    if table["marks"].any():
        shown["marks"] = table["marks"]
    return shown


def _number(value: float, half_width: float | None = None, *, digits: int = 1, sign: str = "") -> str:
    if pd.isna(value):
        return "–"
    text = f"{value:{sign}z.{digits}f}"  # z: no minus before what is rounded to nothing
    return text if half_width is None or pd.isna(half_width) else f"{text} ± {half_width:.{digits}f}"


def seeds(metrics: Metrics) -> pd.DataFrame:
    """A row for every arm and seed: the percentages that the table averages, its cost in passes, its hours."""
    rows = []
    for arm, runs in metrics.items():
        for run in runs:
            made = run["training"]
            hours = sum(line["epoch_seconds"] for line in made["history"]) / 3600
            row = {"arm": arm, "seed": run["seed"], "clean": run["clean"], "robust": run["robust"]}
            row |= {"total_passes": made["cost"]["total_passes"], "training_hours": hours}
            rows.append(row | {"evaluation_hours": run["evaluation"]["seconds"] / 3600, "device": made["device"]})
    return pd.DataFrame(rows)


def curves(metrics: Metrics) -> pd.DataFrame:
    """A row for every arm, seed and epoch: training loss, held-out accuracies in percent, passes so far."""
    rows = []
    for arm, runs in metrics.items():
        for run in runs:
            spent = 0
            for line in run["training"]["history"]:
                spent += sum(sum(line["passes"][phase].values()) for phase in ("scoring", "attack", "update"))
                row = {"arm": arm, "seed": run["seed"], "passes": spent}
                rows.append(row | {name: line[name] for name in ("epoch", "loss", "heldout_clean", "heldout_robust")})
    return pd.DataFrame(rows)


def to_csv(frame: pd.DataFrame) -> bytes:
    """A table for programs: three decimals, empty where there is no value."""
    return frame.to_csv(index=False, float_format="%.3f", lineterminator="\n").encode()
