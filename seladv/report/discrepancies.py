"""Where the paper's description and its authors' code part, and what each difference does to robust accuracy.

A difference is an arm with the switch against the same arm without it. Source: the study's reading of the authors'
public repository (its last commit, 2025-12-11) beside the paper's method section.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

import pandas as pd

from seladv.report import stats
from seladv.report.claims import NOT_RUN
from seladv.report.table import Metrics
from seladv.report.verdicts import number

COLUMNS = ["point", "protocol", "arm", "against", "effect", "interval", "every seed"]


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
        "all of these, margin", "the method", "the script", "as-coded-margin", "margin-50", "as-coded-margin"
    ),
    Discrepancy(
        "all of these, gradient matching", "the method", "the script", "as-coded-gradmatch", "gradmatch-50",
        "as-coded-gradmatch",
    ),
    Discrepancy(
        "attack's mode", "not mentioned", "train mode until the first evaluation, so with batch statistics", "", "",
        "no arm; without batch norm, as on MNIST, there is no difference",
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


def effects(name: str, metrics: Metrics) -> pd.DataFrame:
    """Robust accuracy with each discrepancy less that without it, in points, for every arm that isolates it.

    Pairs share a seed; the interval is over the seeds. A discrepancy without such arms in the plan is one row.
    """
    rows = []
    for item in DISCREPANCIES:
        found = list(_pairs(item, metrics))
        rows += [{"point": item.point, "protocol": name, **_effect(arm, other, metrics)} for arm, other in found]
        if not found:
            missing = {"arm": item.example, "effect": NOT_RUN} if item.arms else {"effect": item.example}
            rows.append({"point": item.point, "protocol": name, **missing})
    return pd.DataFrame([dict.fromkeys(COLUMNS, "–") | row for row in rows], columns=COLUMNS)


def _pairs(item: Discrepancy, metrics: Metrics) -> Iterator[tuple[str, str]]:
    for arm in metrics:
        match = re.fullmatch(item.arms, arm)
        if match and (other := match.expand(item.described)) in metrics:
            yield arm, other


def _effect(arm: str, other: str, metrics: Metrics) -> dict[str, str]:
    robust = {each: [run["robust"] for run in metrics[each]] for each in (arm, other)}
    mean, low, high, *_ = stats.contrast(robust, arm, other)
    line = {"arm": arm, "against": other, "effect": number(mean)}
    if low is not None and high is not None:
        line["interval"] = f"{number(low)} to {number(high)}"
    each = [number(ours - theirs) for ours, theirs in zip(*robust.values(), strict=True)]
    return line | {"every seed": ", ".join(each)}
