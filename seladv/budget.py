"""Is the gain more than speed? Robust accuracy beside everything that an arm has spent so far."""

from collections.abc import Mapping
from itertools import accumulate
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from seladv.cost import total_passes
from seladv.plots import Runs
from seladv.style import COLOURS, legend_beside, look


def course(record: Mapping[str, Any]) -> list[tuple[float, float]]:
    """(passes so far, held-out robust accuracy in percent) after every epoch of a run's training record.

    Passes are of scoring, attack and update, as everywhere; the held-out evaluation itself is left out.
    """
    spent = accumulate(total_passes(line["passes"]) for line in record["history"])
    return [(passes, line["heldout_robust"]) for passes, line in zip(spent, record["history"], strict=True)]


def robust_against_budget(runs: Runs) -> Figure:
    """Held-out robust accuracy against the total cost so far, in units of `full`'s whole training where it ran.

    A line for each arm through the means over its seeds, a band from their least to their greatest. Read upwards from
    one cost, the arms are compared at equal budget. `clean` is left out: nothing is attacked there.
    """
    courses = {arm: [course(record) for record in records] for arm, records in runs.items() if arm != "clean"}
    full = courses.get("full")
    unit = sum(points[-1][0] for points in full) / len(full) if full else 1
    figure = Figure(figsize=(11, 5), layout="constrained")
    axis = figure.subplots()
    looks = look(runs)  # of all arms: each has the colour that it has in the other figures
    for arm, seeds in courses.items():
        style = looks[arm]
        points = pd.DataFrame(
            [{"epoch": n, "cost": x / unit, "robust": y} for c in seeds for n, (x, y) in enumerate(c)]
        )
        cost, robust = points.groupby("epoch")["cost"].mean(), points.groupby("epoch")["robust"]
        axis.plot(cost, robust.mean(), label=arm, linewidth=2.5 if arm == "full" else 1.2, marker=".", **style)
        if len(courses) <= COLOURS:  # more bands than that hide each other
            axis.fill_between(cost, robust.min(), robust.max(), color=style["color"], alpha=0.1, linewidth=0)
    axis.set(
        xlabel="total cost so far, passes" + (" ÷ all of full's" if full else ""),
        ylabel="held-out robust accuracy, %",
        xlim=(0, None),
    )
    if courses:
        legend_beside(figure, axis)
    return figure
