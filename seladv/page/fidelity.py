"""The proxies of gradient matching on the results page: which stands in for the exact score, and at what price."""

from seladv.fidelity import EXACT, PROXIES, ROUNDED
from seladv.fidelity_report import KINDS, conclusion
from seladv.page.data import Row, Study
from seladv.page.figures import embedded
from seladv.page.html import Cell, Raw, number, paragraph, table


def of(study: Study) -> list[Raw]:
    """What to use, the figure, and every proxy's agreement; [] where no run was looked at."""
    if not (result := study.fidelity):
        return []
    said = conclusion(result).replace("`", "").split("\n\n")
    title = f"Agreement with exact gradient matching on the run {result['run']}"
    drawn = [embedded(study, path, title, said[0]) for path in study.fidelity_figures]
    return [*map(paragraph, said), *drawn, _table(study.name, result)]


def _table(name: str, result: Row) -> Raw:
    phases, costs = result["phases"], result["cost"]
    columns = [(kind, label, phase) for kind, label in KINDS.items() for phase in phases]
    header = ["criterion", "cost, F", *(f"{label}, {phase['phase']}" for _, label, phase in columns)]
    body: list[list[object]] = [[EXACT, number(costs[EXACT]), *[number(1, digits=2)] * len(columns)]]
    for proxy in (*PROXIES, ROUNDED):
        agreement = [number(phase["agreement"][proxy][kind], digits=2) for kind, _, phase in columns]
        body.append([proxy, number(costs[proxy]) if proxy in costs else Cell("–", ""), *agreement])
    return table(f"{name}: proxies beside the exact score; F is one forward pass", header, body, text=["criterion"])
