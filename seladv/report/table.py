"""The results table: from the metrics of the runs that params.yaml asks for, and of no others."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd

from seladv.evaluation.attacks import entry
from seladv.report import marks
from seladv.report.marks import MARKS
from seladv.report.stats import mean_and_half_width
from seladv.study.places import StudyError
from seladv.study.protocol import Protocol
from seladv.training.cost import total_passes
from seladv.training.monitor import percent

Metrics = dict[str, list[dict[str, Any]]]  # arm → one run's content for each seed, in the order of params.yaml


# A further column of the table is a line here: its name, where {n} is the number of images, those of the protocol's
# subset, and its value for one run (None or KeyError: not measured).
MORE: dict[str, Callable[[Any], Any]] = {
    "pgd_{n}": lambda run: percent(marks.on_subset(run)["pgd"]),
    "autoattack_{n}": lambda run: run["autoattack"]["robust"],
    "pgd_strong_{n}": lambda run: run["attacks"]["pgd-strong"]["robust"],
    "worst_{n}": lambda run: run["worst_case"]["robust"],
    "pgd_minus_autoattack": marks.overstated,
    "robust_last": lambda run: run["checkpoints"]["last"]["robust"],
    "robust_best": lambda run: run["checkpoints"]["best"]["robust"],
}
WORDS = {"autoattack": "AutoAttack", "pgd": "PGD", "minus": "−"}  # of a column's name, for people
COSTS = ("attack_cost", "total_cost", "epoch_time")  # ratios to full


def load(folder: Path, protocol: Protocol) -> Metrics:
    """Every run of `protocol` out of `folder`, its results/metrics/<name>; files of other runs are ignored.

    A run's content is its metrics file's, with that of its file in results/autoattack/<name> as `autoattack`, and
    `worst_case`: right under every attack that saw the subset, AutoAttack included.

    Raises:
        StudyError: a file is missing or is not a run's, or two did not see the same images.
    """
    found = {arm: [_run(folder, f"{arm}-{seed}") for seed in protocol.seeds] for arm in protocol.arms}
    every = [run for of_arm in found.values() for run in of_arm]
    asked, subset = protocol.evaluate.subset, every[0]["evaluation"]["subset"]
    for run in every:
        for stage, seen in (("evaluate", run["evaluation"]["subset"]), ("autoattack", run["autoattack"]["subset"])):
            if seen != subset or len(seen) != asked:
                name = f"{stage}-{folder.name}@{run['arm']}-{run['seed']}"
                raise StudyError(f"{name} did not attack the same {asked} images as the others: `dvc repro {name}`")
    return found


def _run(folder: Path, name: str) -> dict[str, Any]:
    run = _read(folder / f"{name}.json", "evaluate", {"clean", "robust", "evaluation", "curves", "training"})
    other = folder.parents[1] / "autoattack" / folder.name / f"{name}.json"
    run["autoattack"] = _read(other, "autoattack", {"robust", "members", "subset"})
    return run | {"worst_case": entry(marks.worst(run))}


def _read(path: Path, stage: str, keys: set[str]) -> dict[str, Any]:
    again = f"run `dvc repro {stage}-{path.parent.name}@{path.stem}`"
    try:
        content: dict[str, Any] = json.loads(path.read_text())
        if keys <= set(content):
            return content
    except FileNotFoundError:
        raise StudyError(f"{path} is missing: {again}") from None
    except (ValueError, TypeError):
        raise StudyError(f"{path} is not whole: {again}") from None
    raise StudyError(f"{path} is no run's: {again}")


def runs(metrics: Metrics, transfer: Mapping[str, Any] | None = None) -> pd.DataFrame:
    """A row per run: arm, seed, accuracies in percent, costs (passes; seconds of the median epoch), hours, marks.

    `transfer` is results/transfer/<protocol>.json, where there is one: for the marks.
    """
    found = marks.find(metrics, transfer)
    rows = []
    for arm, of_arm in metrics.items():
        for run in of_arm:
            made = run["training"]
            seconds = [line["epoch_seconds"] for line in made["history"]]
            row = {"arm": arm, "seed": run["seed"], "clean": run["clean"], "robust": run["robust"]}
            row |= {name: _found(find, run) for name, find in _more(len(run["evaluation"]["subset"])).items()}
            row |= {"attack_cost": made["cost"]["attack_passes"], "total_cost": made["cost"]["total_passes"]}
            # The median: an epoch that shared the machine with something else does not count.
            row |= {"epoch_time": median(seconds), "training_hours": sum(seconds) / 3600}
            spent = sum(member["seconds"] for member in run["autoattack"]["members"].values())
            row |= {"evaluation_hours": (run["evaluation"]["seconds"] + spent) / 3600}
            row |= {"device": made["device"], "threads": made["threads"]}
            rows.append(row | {"marks": found[arm, run["seed"]]})
    numbers = ("clean", "robust", *_more(len(run["evaluation"]["subset"])), *COSTS)
    return pd.DataFrame(rows).astype(dict.fromkeys(numbers, float))


def _more(n: int) -> dict[str, Callable[[Any], Any]]:
    return {name.format(n=n): find for name, find in MORE.items()}


def _found(find: Callable[[Any], Any], run: dict[str, Any]) -> Any:
    try:
        return find(run)
    except KeyError:
        return None


def table(runs: pd.DataFrame, protocol: Protocol) -> pd.DataFrame:
    """A row per arm, in the order of params.yaml; the contract's thirteen columns, then `MORE` and `marks`.

    Accuracies are percent, means over the seeds; `_ci` is the half-width of a 95 % interval over seeds (none for one
    seed); `robust_minus_full` pairs each seed with `full`'s. `attack_cost` (PGD passes), `total_cost` (all passes,
    scoring included) and `epoch_time` are ratios to `full`, means over the seeds, empty without it; `epoch_time` also
    where the runs were not all trained on the same device with as many threads.
    """
    by_seed = {str(arm): of_arm.set_index("seed") for arm, of_arm in runs.groupby("arm", sort=False)}
    full = by_seed.get("full")
    alike = len(runs[["device", "threads"]].drop_duplicates()) == 1
    rows = []
    for arm, of_arm in by_seed.items():
        row: dict[str, Any] = {"arm": arm, "seeds": len(of_arm)}
        for column in ("clean", "robust"):
            row[column], row[f"{column}_ci"] = mean_and_half_width(of_arm[column].tolist())
        row |= dict.fromkeys(("robust_minus_full", "robust_minus_full_ci", *COSTS))
        if full is not None:
            difference = mean_and_half_width((of_arm["robust"] - full["robust"]).tolist())
            row["robust_minus_full"], row["robust_minus_full_ci"] = (0.0, None) if arm == "full" else difference
            costs = COSTS if alike else COSTS[:-1]
            row |= {column: (of_arm[column] / full[column]).mean() for column in costs}
        published = protocol.paper.get(arm)
        row |= {"paper_clean": published and published.clean, "paper_robust": published and published.robust}
        row |= {column: of_arm[column].mean() for column in _more(protocol.evaluate.subset)}
        rows.append(row | {"marks": _of_seeds(of_arm["marks"])})
    numbers = [column for column in rows[0] if column not in ("arm", "seeds", "marks")]
    return pd.DataFrame(rows).astype(dict.fromkeys(numbers, float))


def _of_seeds(found: "pd.Series[Any]") -> str:
    """An arm's marks, each with its seeds and figures: `PGD overstates (seed 0: by 3.4, seed 2: by 5.0)`."""
    shown: dict[str, list[str]] = {name: [] for name in MARKS}
    for seed, of_seed in found.items():
        for name, figure in of_seed:
            shown[name].append(f"seed {seed}: {figure}" if figure else f"seed {seed}")
    return "; ".join(f"{name} ({', '.join(figures)})" for name, figures in shown.items() if figures)


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """The table for people: percent with their intervals, a dash for none, no column that is empty throughout."""
    shown = pd.DataFrame({"arm": table["arm"]})
    for column in table.columns[2:-1]:
        if column.endswith("_ci") or table[column].isna().all():
            continue
        digits, sign = (2 if column in COSTS else 1), ("+" if "_minus_" in column else "")
        halves = table[f"{column}_ci"] if f"{column}_ci" in table else [None] * len(table)
        title = " ".join(WORDS.get(word, word) for word in column.split("_"))
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
