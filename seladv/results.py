"""The results table: from the metrics of the runs that params.yaml asks for, and of no others."""

import json
from pathlib import Path
from statistics import mean, median
from typing import Any

import pandas as pd

from seladv.accuracy import percent
from seladv.checklist import added
from seladv.measures import rounds
from seladv.outcomes import pack, unpack, worst_case
from seladv.params import Protocol
from seladv.stats import mean_and_half_width

Metrics = dict[str, list[dict[str, Any]]]  # arm → one metrics file's content for each seed, in the order of params.yaml


COSTS = ("attack_cost", "total_cost", "epoch_time")


class ResultsError(RuntimeError):
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


def with_transfer(metrics: Metrics, path: Path) -> Metrics:
    """`metrics`, each run with the check that only its fellows' networks allow: `seladv.transfer`'s, in `path`.

    Raises:
        ResultsError: the file is missing, not whole, or knows nothing of a run.
    """
    try:
        checks = json.loads(path.read_text())["checks"]
        return {arm: [added(run, checks[f"{arm}-{run['seed']}"]) for run in runs] for arm, runs in metrics.items()}
    except (OSError, ValueError, KeyError, TypeError):
        raise ResultsError(f"{path} does not tell of every run: run `dvc repro transfer-{path.stem}`") from None


def timing(path: Path) -> dict[str, Any] | None:
    """The epochs' times that `measures.rounds` describes; None where they were never measured.

    Raises:
        ResultsError: the file is not whole, or is no timing.
    """
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text())
    except ValueError:
        raise ResultsError(f"{path} is not whole: measure the epochs anew") from None
    if not isinstance(content, dict) or not {"machine", "epoch_seconds"} <= set(content):
        raise ResultsError(f"{path} is no timing: it needs `machine` and `epoch_seconds`")
    return content


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
        return content if {"clean", "robust", "training"} <= set(content) else _fail(path, "no run's metrics")
    except FileNotFoundError:
        return _fail(path, "missing")
    except (ValueError, TypeError):
        return _fail(path, "not whole")


def _fail(path: Path, what: str) -> Any:
    raise ResultsError(f"{path} is {what}: run `dvc repro evaluate-{path.parent.name}@{path.stem}`")


def table(metrics: Metrics, protocol: Protocol, timing: dict[str, Any] | None = None) -> pd.DataFrame:
    """A row per arm, in the order of params.yaml.

    Accuracies are percent, means over the seeds; `_ci` is the half-width of a 95 % interval over seeds (none for one
    seed); `robust_minus_full` pairs each seed with `full`'s. `attack_cost` (PGD passes), `total_cost` (all passes,
    scoring included) and `epoch_time` are ratios to `full`, empty without it. The time is the median of the rounds of
    `timing`, where both arms were timed in turns, and else that of the runs' own median epochs.
    """
    full = metrics.get("full")
    rows = []
    for arm, runs in metrics.items():
        clean, clean_ci = mean_and_half_width([run["clean"] for run in runs])
        robust, robust_ci = mean_and_half_width([run["robust"] for run in runs])
        row: dict[str, Any] = {"arm": arm, "seeds": len(runs), "clean": clean, "clean_ci": clean_ci}
        row |= {"robust": robust, "robust_ci": robust_ci, "robust_minus_full": None, "robust_minus_full_ci": None}
        row |= {"attack_cost": None, "total_cost": None, "epoch_time": None}
        if full:
            pairs = list(zip(runs, full, strict=True))
            difference = mean_and_half_width([run["robust"] - other["robust"] for run, other in pairs])
            row["robust_minus_full"], row["robust_minus_full_ci"] = (0.0, None) if arm == "full" else difference
            for column in COSTS:
                row[column] = mean(_cost(run, column) / _cost(other, column) for run, other in pairs)
            if turns := rounds(timing or {}, arm, "full"):
                row["epoch_time"] = median(turns)
        published = protocol.paper.get(arm)
        row["paper_clean"] = published.clean if published else None
        row["paper_robust"] = published.robust if published else None
        rows.append(row)
    return pd.DataFrame(rows).astype({column: float for column in rows[0] if column not in ("arm", "seeds")})


def _cost(run: dict[str, Any], column: str) -> float:
    training = run["training"]
    if column == "epoch_time":  # the median: one epoch that shared the machine with something else does not count
        return median(line["epoch_seconds"] for line in training["history"])
    return float(training["cost"]["attack_passes" if column == "attack_cost" else "total_passes"])
