"""What the runs cost, and what they were made with: passes, seconds, memory; machines, versions, revisions."""

from collections.abc import Callable, Sequence
from statistics import mean, median
from typing import Any

from seladv.page.data import Row, Study
from seladv.page.html import Raw, element, number, paragraph, prose, section, table
from seladv.provenance import PACKAGES


def of(study: Study) -> Raw:
    """Every arm's passes, seconds and memory, and its epochs timed in turns with the others'."""
    turns = (study.timing or {}).get("epoch_seconds", {})
    header = ["arm", "attack passes, M", "all passes, M", "scoring, % of epoch", "training, s", "evaluation, s"]
    header += ["peak memory, MB", "epoch in turns, s", "least", "most"]
    body: list[list[object]] = []
    for arm in study.protocol.arms:
        runs, rounds = study.metrics.get(arm, []), turns.get(arm, [])
        cells = [number(mean(map(find, runs)) if runs else None, digits=digits) for find, digits in SPENT]
        cells += [number(take(rounds) if rounds else None, digits=2) for take in (median, min, max)]
        body.append([arm, *cells])
    return table(f"{study.name}: what a run costs, means over its seeds", header, body, text=["arm"])


def _scoring(run: Row) -> float:
    return 100 * median(line["seconds"]["scoring"] / line["epoch_seconds"] for line in run["training"]["history"])


SPENT: tuple[tuple[Callable[[Row], float], int], ...] = (
    (lambda run: run["training"]["cost"]["attack_passes"] / 1e6, 3),
    (lambda run: run["training"]["cost"]["total_passes"] / 1e6, 3),
    (_scoring, 1),
    (lambda run: run["training"]["cost"]["epoch_seconds"], 1),
    (lambda run: run["evaluation"]["seconds"], 1),
    (lambda run: run["training"]["cost"]["peak_memory_mb"], 0),
)


MADE = ("revision", "device", "threads", "precision", "python", *PACKAGES)


def hardware(studies: Sequence[Study]) -> Raw:
    """Machines and versions, and which runs each of them made."""
    made: dict[tuple[str, ...], list[str]] = {}
    for study in studies:
        for run in study.runs:
            made.setdefault(_maker(study.name, run["training"]), []).append(f"{run['arm']}-{run['seed']}")
        if study.timing:
            made.setdefault(_maker(study.name, study.timing["machine"]), []).append("timing in turns")
    body = [[*maker, prose(", ".join(names))] for maker, names in made.items()]
    says = "-dirty: tracked files differed from that revision when the run began."
    header = ["protocol", *MADE, "made"]
    parts = [table("What made each result", header, body, text=header), paragraph(says)]
    return section(2, "hardware", "Hardware and versions", *parts)


def _maker(name: str, record: dict[str, Any]) -> tuple[str, ...]:
    return (name, *(str(record.get(key, "–")) for key in MADE))


def regenerate(studies: Sequence[Study]) -> Raw:
    """The commands that make this page again, and the revisions that its runs were made at."""
    revisions = dict.fromkeys(run["training"]["revision"] for study in studies for run in study.runs)
    lines = [
        "make demo                         # the digits: data, training, evaluation, table, this page",
        *(f"dvc repro {f'table-{study.name}':<24}# {_plan(study)}" for study in studies),
        "dvc repro --single-item claims    # this page from the results as they are",
        "make status                       # which results belong to the code as it is",
    ]
    says = f"In a checkout, after make demo has set up .venv. Revisions of the runs: {', '.join(revisions) or 'none'}."
    code = element("pre", element("code", "\n".join(lines)), tabindex="0", role="region", aria_label="Commands")
    return section(2, "regenerate", "How to regenerate", paragraph(says), code)


def _plan(study: Study) -> str:
    arms, seeds = len(study.protocol.arms), len(study.protocol.seeds)
    return f"{arms} arms × {seeds} seed{'' if seeds == 1 else 's'}"
