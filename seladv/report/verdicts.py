"""The verdict on every claim that one protocol's runs allow, the number that decided it, and the title they make."""

import re
from collections.abc import Iterator, Mapping, Sequence
from statistics import mean, median
from typing import Any

import pandas as pd

from seladv.report import claims, stats
from seladv.report.claims import CLAIMS, MEASURES, PAPER_ARMS, PLANS, SUPPORTED, UNDECIDED, Claim
from seladv.report.stats import Contrast
from seladv.report.table import Metrics
from seladv.study.protocol import Protocol

Row = dict[str, Any]
COLUMNS = ["claim", "protocol", "arm", "paper", "ours", "low", "high", "margin", "verdict"]  # of claims.csv
NAMES = {"mnist": "MNIST", "cifar10": "CIFAR-10"}


def decide(name: str, metrics: Metrics, protocol: Protocol, timing: Mapping[str, Any] | None = None) -> list[Row]:
    """A row for each claim and arm of the protocol `name`, in the order of `CLAIMS`; JSON can hold it.

    Accuracies are tested by one additive model over the arms that `claims.PLANS` names, an arm or reference that it
    does not name in pairs. Holm's correction is over the paper's two criteria in a claim on selection itself (C1, C7);
    the others are each one question about a named arm and are not corrected.

    Args:
        name: the protocol's.
        metrics: the runs' metrics by arm, in the same order of seeds.
        protocol: its section of params.yaml.
        timing: results/timing/<protocol>.json (see `rounds`), if the epochs were ever timed.
    """
    rows = []
    for claim in CLAIMS:
        pairs = _pairs(claim, list(metrics), protocol)
        found = [_row(claim, name, arm, other, metrics, timing or {}) for arm, other in pairs]
        found = [row | {"paper": _paper(claim, row, protocol)} for row in found]
        if claim.corrected:
            _correct([row for row in found if row["p"] is not None and row["arm"] in PAPER_ARMS])
        levels = MEASURES[claim.measure].unit == "percent"  # the paper's own figures: only where it has one
        rows += [row for row in found if (row["paper"] if levels else claim.always or row["values"])]
    return rows


def _pairs(claim: Claim, plan: list[str], protocol: Protocol) -> Iterator[tuple[str, str | None]]:
    """The arms that the claim is about, each with what it is compared with; None where the plan lacks either."""
    against = claim.against.format(half=protocol.steps // 2)
    for arm in dict.fromkeys((*claim.always, *plan)):
        if match := re.fullmatch(claim.arms, arm):
            other = match.expand(against)
            if arm in plan and other in plan:
                yield arm, other
            elif arm in claim.always:
                yield arm, None


def _row(claim: Claim, name: str, arm: str, other: str | None, metrics: Metrics, timing: Mapping[str, Any]) -> Row:
    measure, planned = MEASURES[claim.measure], PLANS[name].seeds if name in PLANS else None
    row: Row = {"claim": claim.id, "protocol": name, "arm": arm, "against": other}
    row |= {"margin": str(claim.region), "unit": measure.unit, "values": [], "seeds": [], "planned": planned}
    row |= dict.fromkeys(("ours", "low", "high", "p", "p_holm", "df", "crossed", "epochs"))
    if other is None:
        return row | {"verdict": claims.NOT_RUN}
    runs, others = metrics[arm], metrics[other]
    row |= {"seeds": [run["seed"] for run in runs], "epochs": len(runs[0]["training"]["history"])}
    if measure.value is None:
        values = claims.rounds(timing, arm, other)
    else:
        taken = [measure.value(run, against) for run, against in zip(runs, others, strict=True)]
        values = [value for value in taken if value is not None]
        values = values if len(values) == len(taken) else []  # pairs of some seeds only are no paired comparison
    if not values:
        return row | {"verdict": claims.NOT_MEASURED}
    if measure.unit == "ratio":  # counted, or timed on one machine: there is no spread of a population to estimate
        found = Contrast(median(values), min(values), max(values))
    elif measure.endpoint:
        block = _block(name, arm, other, metrics, measure.endpoint)
        found = stats.contrast(block, arm, other, claim.region.bound(mean(values)))
        if (differences := claims.example_differences(runs, others, measure.endpoint)) is not None:
            row["crossed"] = stats.crossed(differences)
    else:
        centre, half = stats.mean_and_half_width(values)
        found = Contrast(centre) if half is None else Contrast(centre, centre - half, centre + half)
    row |= {"values": values, "ours": found.mean, "low": found.low, "high": found.high, "p": found.p, "df": found.df}
    decided = UNDECIDED if found.low is None or found.high is None else claim.region.verdict(found.low, found.high)
    return row | {"verdict": measure.standing or decided}


def _block(name: str, arm: str, other: str, metrics: Metrics, endpoint: str) -> dict[str, list[float]]:
    """The accuracies that the additive model is fitted to: of the pre-registered arms if both are, else of the two."""
    registered = PLANS[name].arms if name in PLANS else ()
    arms = [each for each in registered if each in metrics] if {arm, other} <= {*registered} else [arm, other]
    found = {each: [claims.accuracy(run, endpoint) for run in metrics[each]] for each in arms}
    return {each: [value for value in values if value is not None] for each, values in found.items()
            if None not in values}  # fmt: skip


def _correct(tested: list[Row]) -> None:
    """Holm over `tested`: what is supported and does not survive it is undecided. It guards against false successes."""
    for row, adjusted in zip(tested, stats.holm([row["p"] for row in tested]), strict=True):
        row["p_holm"] = adjusted
        if row["verdict"] == SUPPORTED and adjusted >= stats.LEVEL:
            row["verdict"] = UNDECIDED


def _paper(claim: Claim, row: Row, protocol: Protocol) -> str:
    """What the paper reports: its table's figure or difference, which are by PGD, or its own words; "" for nothing."""
    ours, other = protocol.paper.get(row["arm"]), protocol.paper.get(row["against"] or claim.against)
    column = {"clean": "clean", "level_clean": "clean"}.get(claim.measure, "robust")
    if ours and MEASURES[claim.measure].unit == "percent":
        return f"{getattr(ours, column):.1f}"
    if ours and other and MEASURES[claim.measure].endpoint:
        return f"{getattr(ours, column) - getattr(other, column):+.1f}"
    return claim.paper.get(str(protocol.data), claim.paper.get("", "")) if row["arm"] in PAPER_ARMS else ""


def called(row: Row) -> str:
    """The verdict in full: with fewer seeds than planned it is interim."""
    interim = row["verdict"] in claims.VERDICTS and row["planned"] and len(row["seeds"]) < row["planned"]
    return f"{row['verdict']} (interim: {len(row['seeds'])} of {row['planned']} seeds)" if interim else row["verdict"]


def title(rows: Sequence[Row], planned: Mapping[str, Protocol]) -> str:
    """What C1 and C7 say of the paper's criteria, in Markdown: a sentence for each protocol, with its budget."""
    sentences = []
    for name in dict.fromkeys(row["protocol"] for row in rows):
        protocol, parts = planned[name], dict[str, list[str]](C1=[], C7=[])
        for row in rows:
            if row["protocol"] == name and row["claim"] in parts and row["arm"] in PAPER_ARMS and row["epochs"]:
                parts[row["claim"]].append(f"{row['arm']} *{called(row)}*")
                epochs = row["epochs"]
        if any(parts.values()):
            data = NAMES.get(str(protocol.data), str(protocol.data))
            found = [", ".join(part) or "*not run*" for part in parts.values()]
            sentences.append(
                f"**{data}**, {protocol.model}, {epochs} epochs (`{name}`): robust accuracy under AutoAttack on par "
                f"with full training: {found[0]}; above random selection of as many: {found[1]}."
            )
    return "\n\n".join(sentences) or "No protocol has a run of the paper's criteria."


def table(rows: Sequence[Row]) -> pd.DataFrame:
    """The verdicts for programs: `COLUMNS`, numbers empty where there is none."""
    frame = pd.DataFrame([row | {"verdict": called(row)} for row in rows], columns=COLUMNS)
    return frame.astype(dict.fromkeys(("ours", "low", "high"), float))


def readable(rows: Sequence[Row]) -> pd.DataFrame:
    """The verdicts for people: the number with its interval, what decided, and what the verdict rests on."""
    shown = []
    for row in rows:
        numbers = (row["ours"], row["low"], row["high"], *(row["crossed"] or ()))
        values = [_write(value, row["unit"]) for value in numbers]
        line = {name: row[name] or "–" for name in ("protocol", "claim", "arm", "against", "paper")}
        line |= {"ours": values[0], "interval": _ends(values[1:3]), "seeds × images": _ends(values[3:])}
        line |= {"margin": row["margin"], "verdict": called(row), "df": row["df"] or "–", "p": _p(row["p"])}
        line |= {"Holm's p": _p(row["p_holm"])}
        shown.append(line | {"every seed or round": ", ".join(_write(value, row["unit"]) for value in row["values"])})
    return pd.DataFrame(shown)


def _write(value: float | None, unit: str) -> str:
    return "–" if value is None else number(value) if unit == "points" else f"{value:.{2 if unit == 'percent' else 3}f}"


def _ends(ends: list[str]) -> str:
    return "–" if not ends or "–" in ends else " to ".join(ends)


def _p(value: float | None) -> str:
    return "–" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


def number(value: float) -> str:
    """A difference in points, with its sign; no minus before what is rounded to nothing."""
    return f"{value:+z.2f}"
