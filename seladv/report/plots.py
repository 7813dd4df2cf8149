"""The look of all figures, and the pictures of images. Tables' figures are drawn where they are shown, in notebooks."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import seaborn as sns
from IPython import get_ipython
from IPython.core.pylabtools import select_figure_formats
from matplotlib.figure import Figure
from torch import Tensor

sns.set_theme(context="notebook", style="whitegrid", palette="colorblind")
if get_ipython():  # show a Figure as a picture also where it was not made by pyplot
    select_figure_formats(get_ipython(), {"png"})


def palette(arms: Iterable[str]) -> dict[str, Any]:
    """Arm → its colour, the same in every figure of a protocol."""
    names = list(dict.fromkeys(arms))
    return dict(zip(names, sns.color_palette("colorblind" if len(names) <= 10 else "husl", len(names)), strict=True))


def save(figure: Figure, path: Path) -> None:
    """Write `figure` as the PNG `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, bbox_inches="tight")


def images(rows: Mapping[str, Tensor], *, titles: Sequence[Any], columns: int = 10) -> Figure:
    """Images [N, C, H, W] in [0, 1], a row (or several) for each name in `rows`; `titles` [N] above the first."""
    columns = min(columns, len(titles))
    lines = -(-len(titles) // columns)
    room = 0.1 * max(map(len, rows))  # inches for the names on the left
    figure = Figure(figsize=(columns * 0.8 + room, len(rows) * lines), layout="constrained")
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
