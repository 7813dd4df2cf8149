"""The verdict on every claim that one protocol's runs allow, and the number that decided it."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import inf
from typing import Any

import pandas as pd

from seladv.report import claims, stats
from seladv.report.claims import (
    CLAIMS,
    MEASURES,
    NOT_RUN,
    NOT_SUPPORTED,
    PAPER_ARMS,
    SUPPORTED,
    UNDECIDED,
    Claim,
    Region,
    Run,
)
from seladv.report.stats import Interval
from seladv.report.table import Metrics
from seladv.study.protocol import Protocol

Row = dict[str, Any]
COLUMNS = ["claim", "protocol", "arm", "paper", "ours", "low", "high", "margin", "verdict"]  # of claims.csv


def decide(name: str, metrics: Metrics, protocol: Protocol, timing: Mapping[str, Any] | None = None) -> list[Row]:
    """A row for each claim and arm of the protocol `name`, in the order of `CLAIMS`; JSON can hold it.

    `timing` is results/timing/<protocol>.json (see `claims.rounds`), if the epochs were ever timed.

    Holm's correction is taken over the arms of one claim where any one of them would be read as its success (C7: some
    criterion beats random selection); `easy` is a negative control and not counted. The other claims are each one
    question about a named arm, with a margin of its own, and are not corrected.
    """
    rows = []
    for claim in CLAIMS:
        found = [_row(claim, arm, other, metrics, timing or {}) for arm, other in _pairs(claim, list(metrics))]
        if claim.corrected:
            _correct([row for row in found if row["p"] is not None and not row["arm"].startswith("easy-")])
        wanted = [row for row in found if claim.always or row["values"]]
        rows += [{"protocol": name, **row, "paper": _paper(claim, row, protocol)} for row in wanted]
    return rows


def _pairs(claim: Claim, plan: list[str]) -> Iterator[tuple[str, str | None]]:
    """The arms that the claim is about, each with what it is compared with; None where the plan lacks either."""
    for arm in dict.fromkeys((*claim.always, *plan)):
        if match := re.fullmatch(claim.arms, arm):
            others = [other for other in plan if re.fullmatch(match.expand(claim.against), other)]
            if arm in plan and others:
                yield from ((arm, other) for other in others)
            elif arm in claim.always:
                yield arm, None


def _row(claim: Claim, arm: str, other: str | None, metrics: Metrics, timing: Mapping[str, Any]) -> Row:
    measure = MEASURES[claim.measure]
    row: Row = {"claim": claim.id, "says": claim.says, "arm": arm, "against": other, "margin": str(claim.region)}
    row |= {"unit": measure.unit, "over": measure.over, "values": [], "seeds": [], "ours": None, "low": None}
    row |= {"high": None, "p": None, "p_holm": None, "examples": None, "budget": None}
    if other is None:
        return row | {"verdict": NOT_RUN, "decided_by": "not in the plan"}
    runs, others = metrics[arm], metrics[other]
    row |= {"seeds": [run["seed"] for run in runs], "budget": _budget(runs, others)}
    if measure.value is None:
        values = claims.rounds(timing, arm, other)
    else:
        taken = [measure.value(run, against) for run, against in zip(runs, others, strict=True)]
        values = [value for value in taken if value is not None]
        values = values if len(values) == len(taken) else []  # pairs of some seeds only are no paired comparison
    if not values:
        return row | {"verdict": UNDECIDED, "decided_by": "not measured"}
    if measure.unit == "points" and (differences := claims.example_differences(runs, others, claim.measure)):
        row["examples"] = list(stats.bootstrap(differences)[1:])
    estimate = stats.interval(values)
    if measure.over == "counts":  # exact: there is nothing to estimate
        estimate = Interval(estimate.mean, min(values), max(values))
    else:
        row["p"] = stats.p_value(values, claim.region.bound(estimate.mean))
    verdict, decided_by = _decide(estimate, claim.region, values)
    if len(values) == 2 and measure.over != "counts" and estimate.low is not None:
        decided_by += " (of two values: the interval has one degree of freedom)"
    row |= {"values": values, "ours": estimate.mean, "low": estimate.low, "high": estimate.high}
    return row | {"verdict": verdict, "decided_by": decided_by}


def _decide(estimate: Interval, region: Region, values: Sequence[float]) -> tuple[str, str]:
    """The verdict, and the number that decided it."""
    mean, low, high = estimate
    if low is None or high is None:
        reason = "one value, no interval" if len(values) < 2 else "no spread, no interval"
        return UNDECIDED, f"{mean:.3g} ({reason})"
    verdict = region.verdict(low, high)
    lower, upper = f"lower end {low:.3g}", f"upper end {high:.3g}"
    if verdict == NOT_SUPPORTED:
        return verdict, lower if low >= region.high else upper
    decisive = [end for end, bound in ((lower, region.low), (upper, region.high)) if abs(bound) < inf]
    return verdict, ", ".join(decisive if verdict == SUPPORTED else (lower, upper))


def _correct(tested: list[Row]) -> None:
    """Holm over `tested`: what is supported and does not survive it is undecided. It guards against false successes."""
    for row, adjusted in zip(tested, stats.holm([row["p"] for row in tested]), strict=True):
        row["p_holm"] = adjusted
        if row["verdict"] == SUPPORTED and adjusted >= stats.LEVEL:
            row |= {"verdict": UNDECIDED, "decided_by": f"Holm's p {adjusted:.3f}"}


def _budget(runs: Sequence[Run], others: Sequence[Run]) -> dict[str, float]:
    """What the verdict holds for: epochs, and all passes of a run and of its reference, means over the seeds."""
    ours, theirs = (sum(run["training"]["cost"]["total_passes"] for run in side) / len(side) for side in (runs, others))
    return {"epochs": len(runs[0]["training"]["history"]), "total_passes": ours, "reference_passes": theirs}


def _paper(claim: Claim, row: Row, protocol: Protocol) -> str:
    """What the paper reports: its table's difference, or its own words; empty where it says nothing."""
    ours, other = protocol.paper.get(row["arm"]), protocol.paper.get(row["against"] or claim.against)
    if ours and other and claim.measure in ("clean", "robust"):
        return f"{getattr(ours, claim.measure) - getattr(other, claim.measure):+.1f}"
    return claim.paper.get(str(protocol.data), claim.paper.get("", "")) if row["arm"] in PAPER_ARMS else ""


def table(rows: Sequence[Row]) -> pd.DataFrame:
    """The verdicts for programs: `COLUMNS`, numbers empty where there is none."""
    return pd.DataFrame(rows, columns=COLUMNS).astype(dict.fromkeys(("ours", "low", "high"), float))


def readable(rows: Sequence[Row]) -> pd.DataFrame:
    """The verdicts for people: the number with its interval, what decided, and what the verdict rests on."""
    shown = []
    for row in rows:
        write = number if row["unit"] == "points" else "{:.3f}".format

        def ends(low: float | None, high: float | None, write: Callable[[float], str] = write) -> str:
            return "–" if low is None or high is None else f"{write(low)} to {write(high)}"

        line = {name: row[name] or "–" for name in ("protocol", "claim", "arm", "against", "paper")}
        line |= {"ours": "–" if row["ours"] is None else write(row["ours"]), "interval": ends(row["low"], row["high"])}
        line |= {"margin": row["margin"], "verdict": row["verdict"], "decided by": row["decided_by"]}
        line |= {
            "p": _p(row["p"]),
            "Holm's p": _p(row["p_holm"]),
            "over images": ends(*(row["examples"] or (None, None))),
        }
        shown.append(line | {"every seed or round": ", ".join(write(value) for value in row["values"])})
    return pd.DataFrame(shown)


def _p(value: float | None) -> str:
    return "–" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


def number(value: float) -> str:
    """A difference in points, with its sign; no minus before what is rounded to nothing."""
    return f"{value:+z.2f}"
