"""The study's figures. Each function draws one and returns it; records and metrics go in, nothing is read from disk."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import pandas as pd
import seaborn as sns
from IPython import get_ipython
from IPython.core.pylabtools import select_figure_formats
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from seladv.study.arms import parse
from seladv.training.cost import total_passes

sns.set_theme(context="notebook", style="whitegrid", palette="colorblind")
if get_ipython():  # show a Figure as a picture; pyplot, which would do it, is not used
    select_figure_formats(get_ipython(), {"png"})

COLOURS = 10  # that one palette has
KINDS = ("clean", "robust")
Runs = Mapping[str, Sequence[Mapping[str, Any]]]  # arm → its runs' training records, one for each seed


def save(figure: Figure, path: Path) -> None:
    """Write `figure` as `path`.png."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path.with_suffix(".png"), dpi=120, bbox_inches="tight")


def look(arms: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Every arm's line: one palette's colours, and after them the same with another dash."""
    palette = sns.color_palette("colorblind", COLOURS)
    dashes = ("-", "--", ":", "-.")
    return {
        arm: {"color": palette[index % COLOURS], "linestyle": dashes[index // COLOURS % len(dashes)]}
        for index, arm in enumerate(arms)
    }


def legend_beside(figure: Figure, axis: Axes) -> None:
    """The legend of `axis` for the whole figure, to its right, which grows by what it needs."""
    handles, labels = axis.get_legend_handles_labels()
    if own := axis.get_legend():
        own.remove()
    columns = -(-len(labels) // 14)
    figure.set_figwidth(figure.get_figwidth() + 2.2 * (columns - 1))
    figure.legend(handles, labels, loc="outside right center", ncols=columns, fontsize="small")


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


def course(record: Mapping[str, Any]) -> list[tuple[float, float]]:
    """(passes so far, held-out robust accuracy in percent) after every epoch of a run's training record.

    Passes are those of scoring, attack and update; the held-out evaluation is left out.
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


def transfer_matrix(pairs: Sequence[Mapping[str, Any]]) -> Figure:
    """Robust accuracy of every network (columns) on the examples made on every other (rows), mean over the seeds."""
    frame = pd.DataFrame(pairs)
    order = list(dict.fromkeys(frame["source"]))
    table = frame.pivot_table(index="source", columns="target", values="robust").loc[order, order]
    figure = Figure(figsize=(2.5 + 0.9 * len(order), 1.8 + 0.6 * len(order)), layout="constrained")
    axis = figure.subplots()
    sns.heatmap(table, annot=True, fmt=".1f", vmin=0, vmax=100, cmap="viridis", ax=axis)
    axis.set(xlabel="tried on", ylabel="made on")
    axis.tick_params(axis="x", rotation=30)
    return figure


def _attacked(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without `clean`, whose robust accuracy would stretch the scale until the others look alike."""
    return [row for row in rows if row["arm"] != "clean"] or rows
