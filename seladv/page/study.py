"""One protocol on the results page: its table, every run, the figures; and by other modules, checklist and cost."""

from collections.abc import Mapping, Sequence
from typing import Any

from seladv import results
from seladv.claims import NOT_RUN
from seladv.extras import MARKS, unattacked
from seladv.page import checklist, cost, fidelity
from seladv.page.data import Row, Study
from seladv.page.figures import figure
from seladv.page.html import Raw, element, mark, number, paragraph, prose, section, table
from seladv.page.verdicts import lacking


def of(study: Study) -> Raw:
    """The section of one protocol."""
    name = study.name
    if not study.metrics:
        return section(2, name, name, paragraph(mark(NOT_RUN), ": ", lacking(study)))
    drawn = [figure(study, path) for path in study.figures]
    parts = [
        section(3, f"{name}-arms", "Arms", _attack(study), _arms(study)),
        section(3, f"{name}-runs", "Every run", _runs(study)),
        section(3, f"{name}-figures", "Figures", *(drawn or [paragraph("None yet: ", lacking(study))])),
        section(3, f"{name}-checklist", "Is the attack to be trusted?", *checklist.of(study)),
        section(3, f"{name}-cost", "Cost and time", cost.of(study)),
    ]
    if proxies := fidelity.of(study):
        parts.append(section(3, f"{name}-fidelity", "Can gradient matching be had for less?", *proxies))
    return section(2, name, name, *parts)


def _attack(study: Study) -> Raw:
    protocol, attack = study.protocol, study.protocol.evaluate
    return paragraph(
        f"{protocol.model} on {protocol.data}, {protocol.epochs} epochs. Robust: right under PGD-{attack.steps}, "
        f"ε = {_size(protocol.eps)}, step {_size(attack.step_size)}, {attack.examples} test images, "
        f"the {protocol.headline} network. Accuracies are percent, costs and time ratios to full. "
        "± is the half-width of a 95 % t-interval over the seeds; one seed has none."
        + unattacked(study.metrics, protocol.headline).replace("`", "")
    )


def _arms(study: Study) -> Raw:
    header = [
        "arm",
        "seeds",
        "clean, %",
        "robust, %",
        "robust − full",
        *(name.replace("_", " ") for name in results.COSTS),
    ]
    header += ["paper clean, %", "paper robust, %", "note"]
    frame = results.table(study.whole, study.protocol, study.timing).to_dict("records") if study.whole else []
    rows = {str(row["arm"]): _arm(row, study) for row in frame}
    for arm, seeds in study.missing.items():
        there = len(study.protocol.seeds) - len(seeds)
        note = prose(mark(NOT_RUN), f": seed {', '.join(map(str, seeds))}")
        rows[arm] = [arm, number(there, digits=0), *[number(None)] * (len(header) - 3), note]
    body = [rows[arm] for arm in study.protocol.arms]
    return table(f"{study.name}: means over the seeds", header, body, text=["arm", "note"])


def _arm(row: Mapping[Any, Any], study: Study) -> list[object]:
    return [
        row["arm"],
        number(row["seeds"], digits=0),
        number(row["clean"], row["clean_ci"]),
        number(row["robust"], row["robust_ci"]),
        number(row["robust_minus_full"], row["robust_minus_full_ci"], sign=True),
        *(number(row[name], digits=2) for name in results.COSTS),
        number(row["paper_clean"]),
        number(row["paper_robust"]),
        prose(_doubts(study.metrics[row["arm"]])),
    ]


def _doubts(runs: Sequence[Row]) -> str:
    """What makes an arm's numbers doubtful, and the seeds that it happened to."""
    seeds = {mark: [str(run["seed"]) for run in runs if found(run)] for mark, found in MARKS.items()}
    return "; ".join(f"{doubt}: seed {', '.join(which)}" for doubt, which in seeds.items() if which) or "–"


def _runs(study: Study) -> Raw:
    attacks = list(dict.fromkeys(name for run in study.runs for name in run.get("attacks", {})))
    attacks = [name for name in attacks if name not in ("clean", "pgd")]  # these two are in the columns before
    networks = list(dict.fromkeys(name for run in study.runs for name in run.get("checkpoints", {})))
    worst = ["worst case"] if any("worst_case" in run for run in study.runs) else []
    header = ["arm", "seed", "clean", "robust", *attacks, *worst, *(f"{name} network" for name in networks), "note"]
    body: list[list[object]] = []
    for arm in study.protocol.arms:
        for run in study.metrics.get(arm, []):
            found = [*(run.get("attacks", {}).get(name) for name in attacks), *(run.get("worst_case") for _ in worst)]
            found += [run.get("checkpoints", {}).get(name) for name in networks]
            cells = [number(entry["robust"] if entry else None) for entry in found]
            note = prose("; ".join(doubt for doubt, found in MARKS.items() if found(run)) or "–")
            body.append([arm, str(run["seed"]), number(run["clean"]), number(run["robust"]), *cells, note])
        for seed in study.missing.get(arm, []):
            command = element("code", f"dvc repro evaluate-{study.name}@{arm}-{seed}")
            note = prose(mark(NOT_RUN), ": ", command, " makes it")
            body.append([arm, str(seed), *[number(None)] * (len(header) - 3), note])
    said = "The worst case is over all attacks that the run faced, AutoAttack among them where its column has a value."
    every = table(f"{study.name}: percent right, by attack", header, body, text=["arm", "seed", "note"])
    return Raw(every + paragraph(said)) if worst and "autoattack" in attacks else every


def _size(value: float) -> str:
    """A radius in the field's way: 8/255, but 0.3."""
    return f"{value * 255:.0f}/255" if len(f"{value:g}") > 5 else f"{value:g}"
