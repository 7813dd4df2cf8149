"""Figures of one run's evaluation: a run's metrics go in, a figure or a table comes out."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

import seladv.style  # noqa: F401 (sets the look that all figures share)


def against_eps(metrics: Mapping[str, Any], *, chance: float = 10.0) -> Figure:
    """Robust accuracy against the attack's size; the protocol's eps and the accuracy of guessing are marked."""
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axis = figure.subplots()
    eps, robust = zip(*metrics["curves"]["eps"], strict=True)
    sns.lineplot(x=eps, y=robust, marker="o", ax=axis)
    axis.axvline(metrics["evaluation"]["eps"], color="0.5", linestyle="--", label="the protocol's ε")
    axis.axhline(chance, color="0.5", linestyle=":", label="guessing")
    axis.set(xlabel="ε", ylabel="robust accuracy, %", xlim=(0, None), ylim=(0, 102))
    axis.legend()
    return figure


def against_steps(metrics: Mapping[str, Any]) -> Figure:
    """Robust accuracy against the attack's steps, on a logarithmic axis; the protocol's steps are marked."""
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axis = figure.subplots()
    steps, robust = zip(*metrics["curves"]["steps"], strict=True)
    sns.lineplot(x=steps, y=robust, marker="o", ax=axis)
    axis.axvline(metrics["evaluation"]["steps"], color="0.5", linestyle="--", label="the protocol's steps")
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(FixedLocator(list(steps)))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(ScalarFormatter())
    axis.set(xlabel="PGD steps", ylabel="robust accuracy, %")
    axis.legend()
    return figure


def attack_table(metrics: Mapping[str, Any]) -> str:
    """Markdown: what each attack leaves right, on how many images, and how long it took."""
    lines = ["| attack | robust, % | images | seconds | settings |", "| --- | ---: | ---: | ---: | --- |"]
    for name, entry in metrics["attacks"].items():
        settings = ", ".join(f"{key} {_short(value)}" for key, value in entry["settings"].items() if value != [])
        lines.append(
            f"| {name} | {entry['robust']:.1f} | {entry['examples']} | {entry['seconds']:.1f} | {settings or '–'} |"
        )
    worst = metrics["worst_case"]
    lines.append(f"| **worst case** | **{worst['robust']:.1f}** | {worst['examples']} | | of all, image by image |")
    return "\n".join(lines)


def checklist_table(metrics: Mapping[str, Any]) -> str:
    """Markdown: every check, whether it passed, and its reading."""
    lines = ["| check | passed | reading |", "| --- | :---: | --- |"]
    lines += [f"| {c['check']} | {'yes' if c['passed'] else '**no**'} | {c['reading']} |" for c in metrics["checklist"]]
    return "\n".join(lines)


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


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
