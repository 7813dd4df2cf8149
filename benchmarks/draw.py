"""The benchmark's figure: what a step costs, and how the cost grows."""

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

import seladv.style  # noqa: F401 (sets the study's look)

LABELS = {
    "step_seconds_by_ratio": "ms per training step",
    "step_seconds_by_steps": "ms per training step",
    "step_seconds_by_batch": "ms per training step",
    "peak_memory_mib_by_batch": "peak memory, MiB",
}


def draw(measured: Mapping[str, Any]) -> Figure:
    """Bars of an attack step for every network and batch above, growth with its straight line below."""
    rows = [row for row in measured["rows"] if row["seconds"] and row["unit"] == "attack step"]
    cases = list(dict.fromkeys((row["network"], row["batch"]) for row in rows))
    figure = Figure(figsize=(16, 8), layout="constrained")
    above, below = figure.subfigures(2, 1, squeeze=False).flat
    for axis, (network, batch) in zip(above.subplots(1, len(cases), sharey=True, squeeze=False)[0], cases, strict=True):
        bars(axis, [row for row in rows if (row["network"], row["batch"]) == (network, batch)])
        axis.set_title(f"{network}, batch {batch}", fontsize=10)
    for axis, (name, growth) in zip(below.subplots(1, len(LABELS)), measured["growth"].items(), strict=True):
        line(axis, growth, label=LABELS[name])
    provenance = measured["provenance"]
    figure.suptitle(
        f"{provenance['device']}, {provenance['threads']} threads, {measured['precision']}, torch {provenance['torch']}"
    )
    return figure


def bars(axis: Axes, rows: list[dict[str, Any]]) -> None:
    """Median ms of each row, with its quartiles."""
    rows = rows[::-1]
    times = [{key: 1000 * value for key, value in row["seconds"].items()} for row in rows]
    middle = [t["median"] for t in times]
    spread = [[t["median"] - t["q1"] for t in times], [t["q3"] - t["median"] for t in times]]
    colours = ["C0" if row["row"].startswith("seladv") else "C7" for row in rows]
    axis.barh([row["row"] for row in rows], middle, xerr=spread, color=colours)
    axis.tick_params(labelsize=8)
    axis.set_xlabel("ms per attack step")


def line(axis: Axes, growth: Mapping[str, Any], *, label: str) -> None:
    """Medians with their quartiles, and the straight line through them."""
    scale = 1000 if label.startswith("ms") else 1
    xs = [point["x"] for point in growth["points"]]
    middle, q1, q3 = ([scale * point[key] for point in growth["points"]] for key in ("median", "q1", "q3"))
    axis.plot(xs, [scale * (growth["intercept"] + growth["slope"] * x) for x in xs], color="C7", linewidth=1)
    errors = [[m - q for m, q in zip(middle, q1, strict=True)], [q - m for m, q in zip(middle, q3, strict=True)]]
    axis.errorbar(xs, middle, yerr=errors, fmt="o", color="C0")
    axis.set(xlabel=growth["x"], ylabel=label, ylim=(0, None), xlim=(0, None))
    axis.set_title(f"straight line: R² = {growth['r2']:.4f}", fontsize=10)
