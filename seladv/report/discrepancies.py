"""Where the paper's description and its authors' code part, and what each difference does to robust accuracy.

A difference is an arm with the switch against the same arm without it. Source: the study's reading of the authors'
public repository (its last commit, 2025-12-11) beside the paper's method section.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import pandas as pd

from seladv.report import stats
from seladv.report.claims import NOT_RUN
from seladv.report.table import Metrics
from seladv.report.verdicts import number

Row = dict[str, Any]


class Discrepancy(NamedTuple):
    """`arms` as coded (a pattern), each measured against the arm that the template `described` names."""

    point: str
    says: str
    does: str
    arms: str  # empty: no arm isolates it
    described: str
    example: str  # what to add to the plan to measure it; for no arm, where else to look


DISCREPANCIES = (
    Discrepancy("ratio", "half of the batch", "a quarter of it", "(margin|gradmatch)-25", r"\1-50", "margin-25"),
    Discrepancy(
        "margin", "the two largest logits' difference; the k smallest are taken",
        "the true class's logit less the largest other, without sign; k are drawn, not taken: without replacement, "
        "with probability in proportion to the inverse", "margin-sampled-([0-9]+)(.*)", r"margin-\1\2",
        "margin-sampled-25",
    ),
    Discrepancy(
        "gradient matching", "cosine of a sample's parameter gradient with the batch's mean",
        "no cosine, no mean, no parameters: drawn in proportion to the length of (softmax − one-hot)",
        "el2n-sampled-([0-9]+)(.*)", r"gradmatch-\1\2", "el2n-sampled-25",
    ),
    Discrepancy(
        "gradient matching, score alone", "as above", "the same length, the k largest taken", "el2n-([0-9]+)(.*)",
        r"gradmatch-\1\2", "el2n-50",
    ),
    Discrepancy(
        "clean part of the loss", "the samples that are not attacked, each weighing as much as an attacked one",
        "a fifth of the whole clean batch's mean, added to the attacked samples' mean", "(.+)-whole(.*)", r"\1\2",
        "margin-50-whole",
    ),
    Discrepancy(
        "warm-up", "none", "random selection for the first epochs (2 on MNIST, 20 on CIFAR-10)", "(.+)-warmup(.*)",
        r"\1\2", "margin-50-warmup",
    ),
    Discrepancy(
        "batch norm", "not mentioned (the networks for the digits and MNIST have none)",
        "its statistics stay as they are once an evaluation or a scoring has switched the network to eval mode",
        "(.+)-frozen(.*)", r"\1\2", "margin-50-frozen",
    ),
    Discrepancy(
        "all of them, margin", "the method", "the script", "as-coded-margin", "margin-50", "as-coded-margin"
    ),
    Discrepancy(
        "all of them, gradient matching", "the method", "the script", "as-coded-gradmatch", "gradmatch-50",
        "as-coded-gradmatch",
    ),
    Discrepancy(
        "full training's cost", "plain PGD training", "on CIFAR-10 it also runs a scoring that it does not use", "",
        "", "no effect on accuracy; the study's `full` scores nothing",
    ),
    Discrepancy(
        "evaluation", "PGD", "the training's own attack, one start, the last network, one seed", "", "",
        "no arm; see the stronger attacks and every seed in each protocol's results",
    ),
    Discrepancy(
        "random selection", "not in the table", "a script for it exists", "", "", "claim C7",
    ),
)  # fmt: skip


def effects(name: str, metrics: Metrics) -> list[Row]:
    """Robust accuracy with each discrepancy less that without it, in points, for every arm that isolates it.

    Pairs share a seed; the interval is over the seeds. A discrepancy without such arms in the plan is one row.
    """
    rows = []
    for item in DISCREPANCIES:
        found = [_row(item, arm, other, metrics) for arm, other in _pairs(item, metrics)]
        empty: Row = {"point": item.point, "arm": item.example if item.arms else None, "against": None, "values": []}
        missing = NOT_RUN if item.arms else item.example
        rows += [{"protocol": name, **row} for row in found or [empty | {"effect": None, "note": missing}]]
    return rows


def _pairs(item: Discrepancy, metrics: Metrics) -> Iterator[tuple[str, str]]:
    for arm in metrics:
        match = re.fullmatch(item.arms, arm)
        if match and (other := match.expand(item.described)) in metrics:
            yield arm, other


def _row(item: Discrepancy, arm: str, other: str, metrics: Metrics) -> Row:
    values = [ours["robust"] - theirs["robust"] for ours, theirs in zip(metrics[arm], metrics[other], strict=True)]
    found = {"effect": list(stats.interval(values)), "p": stats.p_value(values, 0.0)}
    return {"point": item.point, "arm": arm, "against": other, "values": values, **found, "note": ""}


def readable(rows: Sequence[Row]) -> pd.DataFrame:
    """The effects for people, in points; a difference that no arm of the protocol isolates has only its note."""
    shown = []
    for row in rows:
        mean, low, high = row["effect"] or (None, None, None)
        interval = f"{number(low)} to {number(high)}" if low is not None and high is not None else "–"
        line = {"point": row["point"], "protocol": row["protocol"], "arm": row["arm"] or "–"}
        line |= {"against": row["against"] or "–", "effect": number(mean) if mean is not None else row["note"]}
        shown.append(line | {"interval": interval, "every seed": ", ".join(map(number, row["values"]))})
    return pd.DataFrame(shown)


def described() -> pd.DataFrame:
    """What the paper describes beside what its authors' code does."""
    return pd.DataFrame(
        [(item.point, item.says, item.does) for item in DISCREPANCIES], columns=["point", "as described", "as coded"]
    )
