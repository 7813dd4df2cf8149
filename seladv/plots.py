"""The study's figures. Each function draws one and returns it; records and metrics go in, nothing is read from disk."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from seladv.arms import parse
from seladv.style import COLOURS, legend_beside, look

KINDS = ("clean", "robust")
Runs = Mapping[str, Sequence[Mapping[str, Any]]]  # arm → its runs' training records, one for each seed


def images(rows: Mapping[str, Tensor], *, titles: Sequence[Any], columns: int = 10) -> Figure:
    """Images [N, C, H, W] in [0, 1], a row (or several) for each name in `rows`; `titles` [N] above the first."""
    columns = min(columns, len(titles))
    lines = -(-len(titles) // columns)
    figure = Figure(figsize=(columns * 0.8, len(rows) * lines), layout="constrained")
    axis = figure.subplots()  # one for all of them: an axis for every image takes ten times as long
    for row, (name, pictures) in enumerate(rows.items()):
        for index, picture in enumerate(pictures.cpu()):
            left, top = 1.15 * (index % columns), 1.4 * (row * lines + index // columns)
            shown = picture.permute(1, 2, 0).clamp(0, 1)
            axis.imshow(shown, cmap="gray", vmin=0, vmax=1, extent=(left, left + 1, top + 1, top))
            if row == 0:
                axis.text(left + 0.5, top - 0.05, titles[index], fontsize=8, ha="center", va="bottom")
        axis.text(-0.1, 1.4 * row * lines + 0.5, name, ha="right", va="center")
    axis.set(xlim=(0, 1.15 * columns - 0.15), ylim=(1.4 * len(rows) * lines - 0.4, -0.3))
    axis.set_axis_off()
    return figure


def class_counts(parts: Mapping[str, Tensor]) -> Figure:
    """Bars of how many images of each class are in each part."""
    figure = Figure(figsize=(4 * len(parts), 2.5), layout="constrained")
    for axis, (name, labels) in zip(figure.subplots(1, len(parts), squeeze=False)[0], parts.items(), strict=True):
        counts = labels.bincount().tolist()
        sns.barplot(x=list(range(len(counts))), y=counts, ax=axis, color="C0")
        axis.set(title=name, xlabel="class", ylabel="images")
    return figure


def training_curves(runs: Runs) -> Figure:
    """Loss, clean and robust accuracy on the held-out images after every epoch: a line for every seed.

    Of more arms than colours tell apart, the mean over the seeds alone.
    """
    figure = Figure(figsize=(13, 3.6), layout="constrained")
    names = {"loss": "training loss", "heldout_clean": "clean accuracy, %", "heldout_robust": "robust accuracy, %"}
    axes = figure.subplots(1, 3)
    for axis, (column, label) in zip(axes, names.items(), strict=True):
        for arm, style in look(runs).items():
            if arm == "clean" and column == "heldout_robust" and len(runs) > 1:
                continue  # it would stretch the scale until the others look alike
            seeds = pd.DataFrame([{e["epoch"]: e[column] for e in record["history"]} for record in runs[arm]]).T
            lines = seeds if len(runs) <= COLOURS else seeds.mean(axis=1)
            axis.plot(lines, **style, linewidth=1, marker="." if len(lines) == 1 else "")
            axis.plot([], **style, label=arm)
        axis.set(xlabel="epoch", ylabel=label)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    legend_beside(figure, axes[0])
    return figure


def cost_split(runs: Runs) -> Figure:
    """Seconds of the median epoch by phase, mean over the seeds."""
    rows = {}
    for arm, records in runs.items():
        epochs = [sorted(r["history"], key=lambda e: e["epoch_seconds"])[len(r["history"]) // 2] for r in records]
        phases = {p: sum(e["seconds"][p] for e in epochs) / len(epochs) for p in ("scoring", "attack", "update")}
        rest = sum(e["epoch_seconds"] for e in epochs) / len(epochs) - sum(phases.values())
        rows[arm] = {**phases, "batches and bookkeeping": max(rest, 0.0)}
    figure = Figure(figsize=(8, 1.2 + 0.5 * len(rows)), layout="constrained")
    axis = figure.subplots()
    pd.DataFrame(rows).T[::-1].plot.barh(stacked=True, ax=axis, width=0.7)
    axis.set(xlabel="seconds per epoch", ylabel="")
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def accuracy(metrics: Runs) -> Figure:
    """Clean and robust accuracy on the test set, a line for each arm: every seed a point, their mean a bar."""
    rows = [{"arm": arm, **{kind: run[kind] for kind in KINDS}} for arm, runs in metrics.items() for run in runs]
    figure = Figure(figsize=(12, 1.2 + 0.32 * len(metrics)), layout="constrained")
    for axis, kind in zip(figure.subplots(1, len(KINDS), sharey=True), KINDS, strict=True):
        frame = pd.DataFrame(rows if kind == "clean" else _attacked(rows))
        options: dict[str, Any] = {"data": frame, "x": kind, "y": "arm", "order": list(metrics), "ax": axis}
        sns.pointplot(**options, linestyle="none", marker="|", markersize=14, errorbar=None)
        sns.stripplot(**options, size=5, jitter=False)
        axis.set(ylabel="", xlabel=f"{kind} accuracy, %", title="all arms" if kind == "clean" else "the attacked arms")
        axis.grid(axis="y")
    return figure


def robust_against_cost(metrics: Runs) -> Figure:
    """Robust test accuracy against all passes of training, as a ratio to `full` where it ran; every seed a point."""
    full = metrics.get("full")
    unit = full[0]["training"]["cost"]["total_passes"] if full else 1
    rows = [
        {"arm": arm, "cost": run["training"]["cost"]["total_passes"] / unit, "robust": run["robust"]}
        for arm, runs in metrics.items()
        for run in runs
    ]
    figure = Figure(figsize=(12, 4), layout="constrained")
    whole, closer = figure.subplots(1, 2)
    for axis, shown in ((whole, rows), (closer, _attacked(rows))):
        sns.scatterplot(
            pd.DataFrame(shown), x="cost", y="robust", hue="arm", style="arm", hue_order=list(metrics),
            palette=[style["color"] for style in look(metrics).values()], style_order=list(metrics), s=80, ax=axis,
            legend=axis is whole,
        )  # fmt: skip
        axis.set(xlabel="total cost, passes ÷ full" if full else "total cost, passes", ylabel="robust accuracy, %")
    whole.set_xlim(0, 1.05 * max(row["cost"] for row in rows))
    closer.set_title("the attacked arms, closer")
    legend_beside(figure, whole)
    return figure


def selected_classes(runs: Runs) -> Figure:
    """Share of each class among the attacked samples by epoch, mean over the seeds; a panel for each selecting arm."""
    chosen = {arm: records for arm, records in runs.items() if parse(arm).criterion} or dict(runs)
    columns = min(len(chosen), 5)
    rows = -(-len(chosen) // columns)
    figure = Figure(figsize=(2.8 * columns + 1, 2.4 * rows + 0.6), layout="constrained")
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for axis, (arm, records) in zip(axes, chosen.items(), strict=False):
        lines = [
            {"epoch": line["epoch"], "class": str(label), "share, %": 100 * share}
            for record in records
            for line in record["history"]
            for label, share in enumerate(line["selected_classes"])
        ]
        sns.lineplot(
            pd.DataFrame(lines), x="epoch", y="share, %", hue="class", ax=axis, errorbar=None, legend=axis is axes[0],
            linewidth=1, marker="." if len(records[0]["history"]) == 1 else "",
        )  # fmt: skip
        axis.set_title(arm, fontsize="medium")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    for axis in axes[len(chosen) :]:
        axis.set_axis_off()
    legend_beside(figure, axes[0])
    return figure


def _attacked(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without `clean`, whose robust accuracy would stretch the scale until the others look alike."""
    return [row for row in rows if row["arm"] != "clean"] or rows
