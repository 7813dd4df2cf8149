"""The study's figures. Each function draws one and returns it; records and metrics go in, nothing is read from disk."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
import seaborn as sns
from IPython import get_ipython
from IPython.core.pylabtools import select_figure_formats
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

sns.set_theme(context="notebook", style="whitegrid", palette="colorblind")
mpl.rcParams["svg.hashsalt"] = "seladv"  # the same figure is the same file: git shows real changes only
mpl.rcParams["svg.fonttype"] = "none"
if get_ipython():  # show a Figure as a picture from the first cell on; pyplot, which would do it, is not used
    select_figure_formats(get_ipython(), {"png"})

KINDS = ("clean", "robust")
Runs = Mapping[str, Sequence[Mapping[str, Any]]]  # arm → its runs' training records, one for each seed


def save(figure: Figure, path: Path) -> None:
    """Write `figure` as `path`.png and `path`.svg, without dates."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path.with_suffix(".png"), dpi=120, bbox_inches="tight")
    figure.savefig(path.with_suffix(".svg"), bbox_inches="tight", metadata={"Date": None})


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
    """Loss, clean and robust accuracy on the held-out images after every epoch; a thin line for every seed."""
    lines = [
        {"arm": arm, "run": f"{arm}-{number}", **line}
        for arm, records in runs.items()
        for number, record in enumerate(records)
        for line in record["history"]
    ]
    figure = Figure(figsize=(13, 3.6), layout="constrained")
    names = {"loss": "training loss", "heldout_clean": "clean accuracy, %", "heldout_robust": "robust accuracy, %"}
    axes = figure.subplots(1, 3)
    for axis, (column, label) in zip(axes, names.items(), strict=True):
        frame = pd.DataFrame(_attacked(lines) if column == "heldout_robust" else lines)
        sns.lineplot(
            frame, x="epoch", y=column, hue="arm", style="arm", hue_order=list(runs), style_order=list(runs),
            units="run", estimator=None, ax=axis, legend=axis is axes[0], markers=True, dashes=False, linewidth=1,
        )  # fmt: skip
        axis.set(xlabel="epoch", ylabel=label)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    handles, labels = axes[0].get_legend_handles_labels()
    axes[0].get_legend().remove()
    figure.legend(handles, labels, loc="outside right center")
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
    """Clean and robust accuracy on the test set per arm: every seed a point, the mean a bar across them."""
    rows = [{"arm": arm, **{kind: run[kind] for kind in KINDS}} for arm, runs in metrics.items() for run in runs]
    figure = Figure(figsize=(3 + 1.6 * len(metrics), 4), layout="constrained")
    for axis, kind in zip(figure.subplots(1, len(KINDS)), KINDS, strict=True):
        frame = pd.DataFrame(rows if kind == "clean" else _attacked(rows))
        options: dict[str, Any] = {"data": frame, "x": "arm", "y": kind, "hue": "arm", "ax": axis, "legend": False}
        options["hue_order"] = list(metrics)
        sns.pointplot(**options, linestyle="none", marker="_", markersize=22, errorbar=None)
        sns.stripplot(**options, size=6, jitter=False)
        axis.set(xlabel="", ylabel=f"{kind} accuracy, %", title="all arms" if kind == "clean" else "the attacked arms")
        axis.tick_params(axis="x", rotation=30)
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
            style_order=list(metrics), s=80, ax=axis, legend=axis is whole,
        )  # fmt: skip
        axis.set(xlabel="total cost, passes ÷ full" if full else "total cost, passes", ylabel="robust accuracy, %")
    whole.set_xlim(0, 1.05 * max(row["cost"] for row in rows))
    closer.set_title("the attacked arms, closer")
    handles, labels = whole.get_legend_handles_labels()
    whole.get_legend().remove()
    figure.legend(handles, labels, loc="outside right center")
    return figure


def selected_classes(runs: Runs) -> Figure:
    """Share of each class among the attacked samples by epoch, mean over the seeds; a panel for each selecting arm."""
    chosen = {arm: rs for arm, rs in runs.items() if arm not in ("clean", "full")} or dict(runs)
    figure = Figure(figsize=(3.6 * len(chosen) + 1, 3.6), layout="constrained")
    axes = figure.subplots(1, len(chosen), sharey=True, squeeze=False)[0]
    for axis, (arm, records) in zip(axes, chosen.items(), strict=True):
        lines = [
            {"epoch": line["epoch"], "class": str(label), "share, %": 100 * share}
            for record in records
            for line in record["history"]
            for label, share in enumerate(line["selected_classes"])
        ]
        sns.lineplot(
            pd.DataFrame(lines),
            x="epoch",
            y="share, %",
            hue="class",
            ax=axis,
            errorbar=None,
            marker=".",
            legend=axis is axes[-1],
        )
        axis.set_title(arm)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    sns.move_legend(axes[-1], "center left", bbox_to_anchor=(1, 0.5))
    return figure


def _attacked(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without `clean`, whose robust accuracy would stretch the scale until the others look alike."""
    return [row for row in rows if row["arm"] != "clean"] or rows
