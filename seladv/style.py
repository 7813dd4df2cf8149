"""What all figures share: their look, the colours of the arms, the legend, and how they are saved."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import seaborn as sns
from IPython import get_ipython
from IPython.core.pylabtools import select_figure_formats
from matplotlib.axes import Axes
from matplotlib.figure import Figure

sns.set_theme(context="notebook", style="whitegrid", palette="colorblind")
mpl.rcParams["svg.hashsalt"] = "seladv"  # the same figure is the same file: git shows real changes only
mpl.rcParams["svg.fonttype"] = "none"
if get_ipython():  # show a Figure as a picture from the first cell on; pyplot, which would do it, is not used
    select_figure_formats(get_ipython(), {"png"})

COLOURS = 10  # that one palette tells apart


def save(figure: Figure, path: Path) -> None:
    """Write `figure` as `path`.png and `path`.svg, without dates."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path.with_suffix(".png"), dpi=120, bbox_inches="tight")
    figure.savefig(path.with_suffix(".svg"), bbox_inches="tight", metadata={"Date": None})


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
