"""The fidelity study to read: a table, a figure, and what follows for who trains."""

from collections.abc import Mapping
from math import ceil, floor
from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

import seladv.style  # noqa: F401 (sets the look that all figures share)
from seladv.fidelity import EXACT, PASS, PROXIES, ROUNDED

Result = Mapping[str, Any]  # `fidelity.measure`'s

ENOUGH = 0.9  # of the exact choice: a proxy that agrees to this share throughout stands in for it
KINDS = {"correlation": "rank correlation", "overlap": "same choice"}
READING = """\
The exact score, the cosine over all parameters, beside its proxies on the run {run}: {batches} batches of {batch_size}
training images, in training's order, on the network as it is initialised, in the middle of training and at its end
(epochs {epochs}). Rank correlation is Spearman's; *same choice* is the share of the {chosen} samples that the exact
score chooses and the proxy chooses, too ({percent} % by chance). Both are means over the batches, in fp32; {rounded} is
the exact score in bf16 beside itself in fp32. The cost is time, in units F of one forward pass, in {precision}.
"""


def page(result: Result) -> str:
    """Markdown: how to read it, the table, and the conclusion."""
    phases = result["phases"]
    facts = {**result, "batches": phases[0]["batches"], "rounded": f"*{ROUNDED}*"}
    reading = READING.format(**facts, epochs=", ".join(str(phase["epoch"]) for phase in phases))
    title = f"# How well proxies stand in for gradient matching: {result['protocol']}"
    return "\n\n".join([title, reading.strip(), table(result), "## Which one to use", conclusion(result)]) + "\n"


def table(result: Result) -> str:
    """Markdown: cost, rank correlation and same choice of every proxy at start, middle and end."""
    phases = result["phases"]
    header = ["criterion", "cost, F", *(f"{label}, {p['phase']}" for label in KINDS.values() for p in phases)]
    body = [[f"**{EXACT}**", f"{result['cost'][EXACT]:.1f}", *["1"] * (len(header) - 2)]]
    for name in (*PROXIES, ROUNDED):
        values = [(kind, phase["agreement"][name][kind]) for kind in KINDS for phase in phases]
        cells = [_percent(value) if kind == "overlap" else f"{value:.2f}" for kind, value in values]
        body.append([name, f"{result['cost'][name]:.1f}" if name in result["cost"] else "–", *cells])
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, rule, *body))


def figure(result: Result) -> Figure:
    """Agreement with the exact score through training: a panel for each kind, a line for each proxy."""
    rows = [
        {"phase": f"{phase['phase']}\nepoch {phase['epoch']}", "criterion": name, **values}
        for phase in result["phases"]
        for name, values in phase["agreement"].items()
    ]
    drawn = Figure(figsize=(11, 4.2), layout="constrained")
    axes = drawn.subplots(1, 2)
    for axis, (kind, label) in zip(axes, KINDS.items(), strict=True):
        sns.lineplot(
            pd.DataFrame(rows), x="phase", y=kind, hue="criterion", style="criterion", markers=True, dashes=False,
            ax=axis, legend=axis is axes[0], sort=False, errorbar=None,
        )  # fmt: skip
        axis.set(xlabel="", ylabel=f"{label} with exact matching" if kind == "correlation" else f"{label} as exact")
    axes[1].axhline(result["chosen"] / result["batch_size"], color="0.5", linestyle=":", linewidth=1)
    axes[1].set(ylim=(0, 1.03))
    axes[1].text(
        1, result["chosen"] / result["batch_size"], "chance", ha="center", va="bottom", color="0.4", fontsize=9
    )
    handles, labels = axes[0].get_legend_handles_labels()
    axes[0].get_legend().remove()
    drawn.legend(handles, labels, loc="outside right center")
    return drawn


def trained(result: Result, name: str) -> float:
    """The least of the overlaps of the trained networks: training leaves its start behind within an epoch."""
    return min(float(phase["agreement"][name]["overlap"]) for phase in result["phases"] if phase["epoch"] > 0)


def choice(result: Result) -> str:
    """The cheapest proxy that chooses `ENOUGH` of the exact choice on the trained networks, or else `EXACT`."""
    cost = result["cost"]
    able = [name for name in PROXIES if trained(result, name) >= ENOUGH and cost[name] < cost[EXACT]]
    return min(able, key=lambda name: float(cost[name]), default=EXACT)


def conclusion(result: Result) -> str:
    """In words: the proxy to use, and when exact matching costs more than it saves."""
    cost, name = result["cost"], choice(result)
    if name == EXACT:
        closest = max(PROXIES, key=lambda name: trained(result, name))
        advice = (
            f"No cheaper score chooses {_percent(ENOUGH)} of what exact matching chooses on the trained networks; the "
            f"closest is `{closest}` with {_percent(trained(result, closest))}. Who wants gradient matching has to "
            f"compute it: `{EXACT}`."
        )
    else:
        fresh = result["phases"][0]["agreement"][name]["overlap"]
        advice = (
            f"Use `{name}`, the cheapest score that chooses at least {_percent(ENOUGH)} of what exact matching chooses "
            f"on the trained networks: {_percent(trained(result, name))} or more, and {_percent(fresh)} on the "
            f"untrained one, at {cost[name]:.1f} F instead of {cost[EXACT]:.1f} F."
        )
    return f"{advice}\n\n{balance(result)}"


def balance(result: Result) -> str:
    """In words: what exact matching costs beside what selection saves, K (1 − r) (F + B) per sample of the batch."""
    exact, single, steps = result["cost"][EXACT], result["cost"][PASS], result["steps"]
    left = 1 - result["percent"] / 100
    saved = steps * left * single
    verdict = "costs more than it saves" if exact > saved else f"takes {_percent(exact / saved)} of that back"
    most = floor(100 * (1 - exact / (steps * single)))  # the largest share at which it still saves something
    share = f"with more than {most} % of the batch attacked" if most > 0 else "however few are attacked"
    return (
        f"At PGD-{steps} and {result['percent']} % of the batch, selection saves the attack K (1 − r) (F + B) = "
        f"{saved:.1f} F per sample of the batch, one pass F + B being {single:.1f} F here. Exact matching needs "
        f"{exact:.1f} F to score and so {verdict}. It costs more than it saves with fewer than "
        f"{ceil(exact / (left * single))} steps at this share, or, at these steps, {share}."
    )


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
