"""The results page's first part: does the paper's claim hold, and what was found for each of its claims."""

from collections import Counter
from collections.abc import Mapping, Sequence

from seladv.claims import CLAIMS, NOT_RUN, NOT_SUPPORTED, PAPER_ARMS, SUPPORTED, VERDICTS
from seladv.claims_report import ends, number
from seladv.page.data import Row, Study
from seladv.page.html import Cell, Raw, element, items, mark, paragraph, prose, section, table

ARTICLE = "Scaling Adversarial Training via Data Selection"
HEADLINE = ("C1", "C3", "C4")  # no less robust, at half of the attack's cost, in 40 to 50 % less time
READING = (
    "Supported: the whole interval lies within the margin. Not supported: all of it lies outside. Undecided: it does "
    "neither, or one value gives no interval. The margins were set before any run. Intervals are Student's t at 95 %, "
    "over paired seeds or, for times, over rounds on one machine; counted passes are exact. Accuracies differ in "
    "points, the rest are ratios."
)


def headline(studies: Sequence[Study]) -> Counter[str]:
    """How many verdicts of each kind on what the abstract promises, where the paper itself reports results."""
    return Counter(
        row["verdict"]
        for study in studies
        if study.protocol.paper
        for row in study.claims
        if row["claim"] in HEADLINE and row["arm"] in PAPER_ARMS
    )


def title(verdicts: Mapping[str, int]) -> str:
    """[Re] where every headline verdict is `supported`, [¬Re] where one is not, [Re?] while that is not decided."""
    found = {verdict for verdict, count in verdicts.items() if count}
    tag = "[¬Re]" if NOT_SUPPORTED in found else "[Re]" if found == {SUPPORTED} else "[Re?]"
    return f"{tag} {ARTICLE}"


def summary(studies: Sequence[Study]) -> Raw:
    """What the title rests on, in words."""
    counts = headline(studies)
    names = [study.name for study in studies if study.protocol.paper]
    waiting = [study.name for study in studies if study.protocol.paper and not study.claims]
    found = ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS)
    found += f"; no verdicts yet: {', '.join(waiting)}" if waiting else ""
    return paragraph(
        f"The title rests on the verdicts on {', '.join(HEADLINE)} for {' and '.join(PAPER_ARMS)} on the paper's own "
        f"protocols ({', '.join(names)}): {found}. [Re]: all supported. [¬Re]: one is not. [Re?]: not decided yet."
    )


def verdicts(studies: Sequence[Study]) -> Raw:
    """Every claim at a glance, then every protocol's verdicts with their numbers."""
    parts = [section(3, f"verdicts-{study.name}", study.name, *_of(study)) for study in studies]
    return section(2, "verdicts", "Verdicts", paragraph(READING), _glance(studies), *parts)


def _glance(studies: Sequence[Study]) -> Raw:
    judged = [study for study in studies if study.claims]
    body = []
    for claim in CLAIMS:
        cells = [[row for row in study.claims if row["claim"] == claim.id] for study in judged]
        words = [
            Raw("".join(element("div", f"{row['arm']} ", mark(row["verdict"])) for row in rows) or "–")
            for rows in ([row for row in rows if row["arm"] in PAPER_ARMS] for rows in cells)
        ]
        body.append([claim.id, prose(claim.says), *words, str(claim.region)])
    header = ["claim", "says", *(study.name for study in judged), "margin"]
    return table("Verdicts on the paper's own arms", header, body, text=header)


def _of(study: Study) -> list[Raw]:
    if not study.claims:
        return [paragraph(mark(NOT_RUN), ": ", lacking(study))]
    header = ["claim", "arm", "verdict", "effect", "interval", "margin", "against", "paper", "rests on", "decided by"]
    text = [name for name in header if name not in ("effect", "interval")]
    return [table(f"{study.name}: every verdict", header, [_row(row) for row in study.claims], text=text)]


def _row(row: Row) -> list[object]:
    return [
        Cell(prose(row["claim"], " ", element("small", row["says"])), row["claim"]),
        row["arm"],
        Cell(mark(row["verdict"]), VERDICTS.index(row["verdict"])),
        Cell(number(row["ours"], row["unit"]), _exact(row["ours"])),
        Cell(ends(row["low"], row["high"], unit=row["unit"]), _exact(row["low"])),
        row["margin"],
        row["against"] or "–",
        row["paper"] or "–",
        _basis(row),
        prose(row["decided_by"]),
    ]


def _exact(value: float | None) -> str:
    """As results/claims.csv has it."""
    return "" if value is None else f"{value:.3f}"


def _basis(row: Row) -> str:
    """How many seeds, or how many rounds of a timing."""
    count, thing = len(row["values"]), "round" if row["over"] == "rounds" else "seed"
    return "–" if not count else f"{count} {thing}{'' if count == 1 else 's'}"


def lacking(study: Study) -> Raw:
    """What of a protocol's plan has not been run, and what runs it."""
    asked = len(study.protocol.arms) * len(study.protocol.seeds)
    lost = [f"{arm}-{seed}" for arm, seeds in study.missing.items() for seed in seeds]
    what = (
        f"none of its {asked} runs has been made" if len(lost) == asked else f"{len(lost)} of {asked} runs are missing"
    )
    if not lost:
        return Raw(
            f"its runs are there, its table is not: {element('code', f'dvc repro table-{study.name}')} makes it."
        )
    return Raw(f"{what}. {element('code', f'dvc repro table-{study.name}')} makes {'them' if len(lost) > 1 else 'it'}.")


def discrepancies(studies: Sequence[Study]) -> Raw:
    """What the authors' code does otherwise, and the effect of each difference that an arm isolates."""
    rows = [row for study in studies for row in study.effects]
    body = [
        [
            prose(row["point"]),
            *(row[name] or "–" for name in ("protocol", "arm", "against")),
            Cell(number(row["effect"][0], "points"), _exact(row["effect"][0])) if row["effect"] else Cell("–", ""),
            ends(*row["effect"][1:], unit="points") if row["effect"] else prose(row["note"].replace("`", "")),
        ]
        for row in rows
    ]
    header = ["point", "protocol", "arm", "against", "effect", "interval"]
    text = [name for name in header if name != "effect"]
    link = element("a", "discrepancies.md", href="discrepancies.md")
    says = "Robust accuracy with each difference less that without it, in points, paired by seed. What each one is: "
    parts = [
        paragraph(says, link, "."),
        table("Effect of each difference", header, body, text=text),
    ]
    return section(
        2, "discrepancies", "Described and coded", *(parts if rows else [items(["No protocol has a table."])])
    )
