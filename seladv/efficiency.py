"""What a criterion's scoring takes, and how much robustness its arm gets for all that it spends."""

from statistics import mean, median
from typing import Any, NamedTuple

from seladv.arms import parse
from seladv.report import grid
from seladv.results import Metrics

HEADER = (
    "arm",
    "scoring, % of the epoch",
    "scoring, % of all passes",
    "total cost",
    "robust, %",
    "robust ÷ total cost",
)
READING = """\
Scoring's share of an epoch's seconds (the median epoch) and of all passes of training, beside what the arm gets for all
that it spends: robust accuracy in percent over total cost, a ratio to `full`. Means over the seeds. A low cost makes a
high ratio whatever the accuracy: compare criteria of one share with each other. How well the cheaper criteria choose
what exact gradient matching would choose: `results/fidelity`.
"""


class Line(NamedTuple):
    """An arm's means over its seeds: shares in percent, cost as a ratio to `full` (None without it)."""

    arm: str
    epoch_share: float
    passes_share: float
    cost: float | None
    robust: float
    efficiency: float | None  # percent of robust accuracy per unit of total cost


def lines(metrics: Metrics) -> list[Line]:
    """A line for `full` and for every arm that selects, in the order of params.yaml."""
    shown = [arm for arm in metrics if arm == "full" or parse(arm).criterion]
    return [_line(arm, metrics[arm], metrics.get("full")) for arm in shown]


def section(metrics: Metrics) -> str:
    """Markdown: `lines`, under a heading, with how to read them."""
    body = []
    for line in lines(metrics):
        cost = "–" if line.cost is None else f"{line.cost:.2f}"
        efficiency = "–" if line.efficiency is None else f"{line.efficiency:.1f}"
        shares = (f"{line.epoch_share:.1f}", f"{line.passes_share:.1f}")
        body.append([line.arm, *shares, cost, f"{line.robust:.1f}", efficiency])
    return "\n\n".join(["## What scoring costs", READING.strip(), grid(HEADER, body)]) + "\n"


def _line(arm: str, runs: list[dict[str, Any]], full: list[dict[str, Any]] | None) -> Line:
    cost = None
    if full:
        cost = mean(_total(run) / _total(other) for run, other in zip(runs, full, strict=True))
    robust = mean(run["robust"] for run in runs)
    epoch, passes = (100 * mean(share(run) for run in runs) for share in (_epoch_share, _passes_share))
    return Line(arm, epoch, passes, cost, robust, robust / cost if cost else None)


def _total(run: dict[str, Any]) -> float:
    return float(run["training"]["cost"]["total_passes"])


def _passes_share(run: dict[str, Any]) -> float:
    return sum(run["training"]["cost"]["passes"]["scoring"].values()) / _total(run)


def _epoch_share(run: dict[str, Any]) -> float:
    """Of the median epoch: one that shared the machine with something else does not count."""
    return median(line["seconds"]["scoring"] / line["epoch_seconds"] for line in run["training"]["history"])
