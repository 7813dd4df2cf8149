"""What a criterion's scoring takes, and how much robustness its arm gets for all that it spends."""

from typing import Any, NamedTuple

from seladv.arms import parse
from seladv.measures import MEASURES, Run
from seladv.results import Metrics
from seladv.stats import mean_and_half_width

SCORING, TOTAL = (MEASURES[name].value for name in ("scoring", "total_passes"))
HEADER = ("arm", "scoring, % of an epoch", "scoring, % of all passes", "total cost", "robust, %", "robust ÷ total cost")


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
    return [_line(arm, runs, metrics.get("full")) for arm, runs in metrics.items() if arm == "full" or parse(arm).criterion]


def _line(arm: str, runs: list[dict[str, Any]], full: list[dict[str, Any]] | None) -> Line:
    def over_seeds(values: list[Any]) -> float:
        return mean_and_half_width(values)[0]

    assert SCORING
    assert TOTAL
    costs = [TOTAL(run, other) for run, other in zip(runs, full, strict=True)] if full else []
    cost = over_seeds(costs) if costs else None
    robust = over_seeds([run["robust"] for run in runs])
    epoch, passes = (100 * over_seeds([share(run) for run in runs]) for share in (lambda r: SCORING(r, r), _passes))
    return Line(arm, epoch, passes, cost, robust, robust / cost if cost else None)


def _passes(run: Run) -> float:
    """Scoring's share of the passes of scoring, attack and update."""
    cost = run["training"]["cost"]
    return sum(cost["passes"]["scoring"].values()) / cost["total_passes"]
