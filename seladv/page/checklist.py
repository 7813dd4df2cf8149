"""The evaluation's checklist on the results page: what passed, what failed, and by which figures."""

from collections.abc import Sequence

from seladv.claims import NOT_RUN
from seladv.page.data import Row, Study
from seladv.page.html import Cell, Raw, items, mark, paragraph, table


def of(study: Study) -> list[Raw]:
    """What failed, by which figures, and a mark for every run and check; what passed has its figures in its file."""
    judged = [run for run in study.runs if run.get("checklist")]
    without = [f"{run['arm']}-{run['seed']}" for run in study.runs if not run.get("checklist")]
    parts = []
    if judged:
        names = list(dict.fromkeys(item["check"] for run in judged for item in run["checklist"]))
        parts += [_failures(judged), _matrix(study.name, judged, names)]
    if without:
        parts.append(paragraph(mark(NOT_RUN), f": no checklist, only the protocol's PGD: {', '.join(without)}."))
    return parts


def _passed(item: Row) -> str:
    return "pass" if item["passed"] else "fail"


def _failures(runs: Sequence[Row]) -> Raw:
    failed = [(run, item) for run in runs for item in run["checklist"] if not item["passed"]]
    total = sum(len(run["checklist"]) for run in runs)
    said = [
        f"{run['arm']}, seed {run['seed']}, {item['check']}: {item['reading']} ({_figures(item['figures'])})"
        for run, item in failed
    ]
    passed = (
        f"{total - len(failed)} of {total} checks passed; their figures are in results/metrics and results/transfer."
    )
    return Raw(paragraph(passed) + (items(said) if said else ""))


def _matrix(name: str, runs: Sequence[Row], checks: Sequence[str]) -> Raw:
    header, body = ["arm", "seed", *checks], []
    for run in runs:
        found = {item["check"]: _passed(item) for item in run["checklist"]}
        cells = [Cell(mark(found[check]), found[check]) if check in found else "–" for check in checks]
        body.append([run["arm"], str(run["seed"]), *cells])
    return table(f"{name}: the evaluation's checklist", header, body, text=header)


def _figures(figures: Row) -> str:
    return ", ".join(f"{name} {value:.5g}" for name, value in figures.items())
