"""Verdicts and discrepancies as tables; the rows are those of `verdicts.decide` and `discrepancies.effects`."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from seladv.report.claims import CLAIMS, NOT_RUN, PAPER_ARMS, VERDICTS
from seladv.report.discrepancies import DISCREPANCIES
from seladv.report.table import to_csv

Row = Mapping[str, Any]
COLUMNS = ["claim", "protocol", "arm", "paper", "ours", "low", "high", "margin", "verdict"]
READING = """\
A claim is *supported* where the whole interval lies within the margin, *not supported* where all of it lies outside,
and *undecided* otherwise. The margins were set before any result. Accuracies differ in points; the rest are ratios.

- The interval is Student's t at 95 %, over the seeds (paired: both arms of a difference share a seed) or, where epochs
  were timed in turns on one machine (results/timing has its load), over the rounds. One value has no interval and
  decides nothing; values that all agree exactly have none either. Counted passes are exact: their ends are the least
  and the greatest.
- p is two-sided, of the margin's nearest bound. Holm's p corrects it for the number of arms of one claim where any one
  of them would be read as a success (C7, and C7-worst); a *supported* that it does not confirm is undecided. The other
  claims are each one question about a named arm and are not corrected.
- `random` is the control and no method of the paper: a gain that it shares is not an effect of the selection.
- "over examples" is another uncertainty: a paired bootstrap over the test images, with the networks held fixed.
- The scoring's share (C6) is a ratio within one run, median epoch.
- A verdict holds for its budget: the passes of a run, scoring and update included, against its reference's."""


def grid(header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    return pd.DataFrame(body, columns=list(header)).to_markdown(index=False, disable_numparse=True)


def claims_csv(rows: Sequence[Row]) -> bytes:
    """The verdicts for programs: three decimals, empty where there is no value."""
    frame = pd.DataFrame([{name: row[name] for name in COLUMNS} for row in rows], columns=COLUMNS)
    return to_csv(frame.astype({name: float for name in ("ours", "low", "high")}))


def claims_markdown(rows: Sequence[Row]) -> str:
    """The verdicts for people: how to read them, then each protocol's, with every seed's value behind them."""
    parts = ["# Claims", READING, scope()]
    for name in dict.fromkeys(row["protocol"] for row in rows):
        found = [row for row in rows if row["protocol"] == name]
        parts += [f"## {name}", tally(found), verdict_grid(found)]
        parts += ["What the verdicts rest on:", _evidence([row for row in found if row["verdict"] != NOT_RUN])]
    return "\n\n".join(parts) + "\n"


def scope() -> str:
    """What is claimed, and the margin that it must keep."""
    return grid(["claim", "says", "margin"], [[item.id, item.says, str(item.region)] for item in CLAIMS])


def tally(rows: Sequence[Row]) -> str:
    """How many verdicts of each kind; a claim has one for each of the paper's own arms."""
    counts = Counter(row["verdict"] for row in rows if row["arm"] in PAPER_ARMS)
    return (
        "Verdicts on the paper's own arms: " + ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS) + "."
    )


def verdict_grid(rows: Sequence[Row]) -> str:
    """What was claimed, what was found, and the verdict."""
    header = ["claim", "arm", "against", "paper", "ours", "interval", "margin", "verdict", "decided by"]
    body = [
        [
            *(row[name] or "–" for name in ("claim", "arm", "against", "paper")),
            number(row["ours"], row["unit"]),
            ends(row["low"], row["high"], unit=row["unit"]),
            row["margin"],
            f"**{row['verdict']}**",
            row["decided_by"],
        ]
        for row in rows
    ]
    return grid(header, body)


def _evidence(rows: Sequence[Row]) -> str:
    header = ["claim", "arm", "against", "p", "Holm's p", "over examples", "budget", "values"]
    body = [
        [
            *(row[name] for name in ("claim", "arm", "against")),
            *(_p(row[name]) for name in ("p", "p_holm")),
            ends(*(row["examples"] or (None, None)), unit=row["unit"]),
            _budget(row["budget"]),
            _values(row),
        ]
        for row in rows
    ]
    return grid(header, body)


def discrepancies_markdown(rows: Sequence[Row]) -> str:
    """The description beside the code, and each difference's effect where arms isolate it."""
    points = [[item.point, item.says, item.does] for item in DISCREPANCIES]
    effects = [[row["point"], row["protocol"], row["arm"] or "–", row["against"] or "–", *_effect(row)] for row in rows]
    return "\n\n".join(
        [
            "# Described and coded",
            "The paper describes one method; its authors' published code does another. The study's arms are the "
            "described ones, and each difference is a switch of its own.",
            grid(["point", "as described", "as coded"], points),
            "## What each difference does to robust accuracy",
            "Points: the arm with the difference less the arm without it, paired by seed, with Student's t interval at "
            "95 % over the seeds. p is two-sided, of no effect, and not corrected for the number of rows: these are "
            "observations, not claims.",
            grid(["point", "protocol", "arm", "against", "effect", "interval", "p", "every seed"], effects),
        ]
    ) + "\n"  # fmt: skip


def _effect(row: Row) -> list[str]:
    if row["effect"] is None:
        return [row["note"], "–", "–", "–"]
    mean, low, high = row["effect"]
    seeds = ", ".join(number(value, "points") for value in row["values"])
    return [number(mean, "points"), ends(low, high, unit="points"), _p(row["p"]), seeds]


def number(value: float | None, unit: str) -> str:
    """`value` in points, with its sign, or as a ratio; a dash for none."""
    if value is None:
        return "–"
    return f"{value:+z.2f}" if unit == "points" else f"{value:.3f}"


def ends(low: float | None, high: float | None, *, unit: str) -> str:
    """An interval from `low` to `high`; a dash for none."""
    return "–" if low is None or high is None else f"{number(low, unit)} to {number(high, unit)}"


def _p(value: float | None) -> str:
    return "–" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


def _budget(budget: Mapping[str, float]) -> str:
    ours, theirs = (f"{budget[side] / 1e6:#.3g}" for side in ("total_passes", "reference_passes"))
    return f"{budget['epochs']} epochs, {ours} M passes against {theirs} M"


def _values(row: Row) -> str:
    """Every seed's value, or every round's."""
    numbers = [number(value, row["unit"]) for value in row["values"]]
    if row["over"] == "rounds":
        return ", ".join(numbers) or "–"
    return ", ".join(f"{seed}: {number}" for seed, number in zip(row["seeds"], numbers, strict=False)) or "–"
