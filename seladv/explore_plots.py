"""The pictures of `notebooks/explore.ipynb`. Each function draws one and returns it; its title says what is seen."""

from collections.abc import Iterable, Mapping, Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator
from seaborn import color_palette
from torch import Tensor

import seladv.style  # noqa: F401 (sets the look that all figures share)
from seladv import arms
from seladv.explore import Choice, Trajectory, by_chance
from seladv.explore_networks import Subject

COLOURS = color_palette("colorblind")
MARK = COLOURS[1]  # orange; what is marked bears a thick frame and a dot as well: colour alone says nothing
WIDTH = 12.0  # inches, of every picture


def batch(choice: Choice, names: Sequence[str], *, arm: str, by_score: bool = False, columns: int = 16) -> Figure:
    """The images of a batch with class and score; the chosen ones framed and dotted. `by_score`: highest first."""
    order = choice.scores.argsort(descending=True).tolist() if by_score else range(len(choice.y))
    rows = -(-len(choice.y) // columns)
    figure = Figure(figsize=(WIDTH, 0.5 + 1.08 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, index in zip(axes.flat, order, strict=False):
        chosen = bool(choice.chosen[index])
        _image(axis, choice.x[index], frame=chosen)
        title = f"{'● ' if chosen else ''}{names[int(choice.y[index])]}\n{choice.scores[index]:.2g}"
        axis.set_title(
            title, fontsize=8 if max(map(len, names)) < 6 else 6, weight="bold" if chosen else "normal", pad=3
        )
    figure.suptitle(
        f"{arm} attacks {int(choice.chosen.sum())} of {len(choice.y)} (framed, ●); "
        f"above each image its class and {choice.criterion} score",
        fontsize=12,
    )
    return figure


def step(path: Trajectory, at: int, names: Sequence[str], *, eps: float) -> Figure:
    """One image before the attack and after `at` steps, the change, and the margin along the way."""
    figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
    clean, now, change, line = figure.subplots(1, 4, width_ratios=(1, 1, 1, 2.2))
    seen = path.predictions[at]
    _image(clean, path.clean)
    clean.set_title(f"clean: {names[path.label]}", fontsize=11)
    _image(now, path.images[at], frame=seen != path.label)
    now.set_title(_verdict(path, at, names), fontsize=11)
    _image(change, _change(path, at, eps))
    change.set_title("the change, grey is none", fontsize=11)
    _margins(line, path, label="margin", colour=COLOURS[0])
    line.plot(at, path.margins[at].item(), "o", color=MARK, markersize=12, markeredgecolor="black", label=f"step {at}")
    line.legend(fontsize=10)
    figure.suptitle(
        f"PGD at ε = {eps:.3g}, step {at} of {len(path.images) - 1}: margin {path.margins[at]:+.2f}, "
        f"the network says {names[seen]}",
        fontsize=12,
    )
    return figure


def comparison(paths: Mapping[str, Trajectory], names: Sequence[str], *, eps: float) -> Figure:
    """The same image attacked on each network: a row for each, and their margins side by side."""
    figure = Figure(figsize=(WIDTH, 2.7 * len(paths) + 0.4), layout=ConstrainedLayoutEngine(hspace=0.1))
    grid = figure.add_gridspec(len(paths), 4, width_ratios=(1, 1, 1, 2.2))
    line = figure.add_subplot(grid[:, 3])
    for row, (label, path) in enumerate(paths.items()):
        last = len(path.images) - 1
        clean, attacked, change = (figure.add_subplot(grid[row, column]) for column in range(3))
        _image(clean, path.clean)
        clean.set_title(f"{label}\nclean: {names[path.label]}", fontsize=10)
        _image(attacked, path.images[last], frame=path.predictions[last] != path.label)
        attacked.set_title(_verdict(path, last, names), fontsize=10)
        _image(change, _change(path, last, eps))
        change.set_title("the change", fontsize=10)
        _margins(line, path, label=label, colour=COLOURS[(0, 2, 4)[row % 3]], style=("-", "--", ":")[row % 3])
    line.legend(fontsize=10)
    figure.suptitle(f"The same image and the same random start, PGD at ε = {eps:.3g}", fontsize=12)
    return figure


def habits(times: Tensor, subject: Subject, *, epochs: int) -> Figure:
    """How often `subject` chose the first training images in `epochs` [N], beside chance; and examples."""
    figure = Figure(figsize=(WIDTH, 3.8), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1, 1.5), squeeze=False)[0]
    size = subject.study.batch_size
    _frequencies(left.subplots(), times, share=arms.parse(subject.run.arm).count(size) / size, epochs=epochs)
    order = times.argsort(descending=True, stable=True)
    shown = (("most", order[:10]), ("least", order.flip(0)[:10]))
    for part, (most, which) in zip(right.subfigures(2, 1), shown, strict=True):
        part.suptitle(f"chosen {most} often", fontsize=11, fontweight="bold")
        _examples(part.subplots(1, 10), subject, which, times)
    never = 100 * subject.record["history"][-1]["never_selected"]
    figure.suptitle(
        f"Recomputed with the finished network: of {len(times)} images {int((times == epochs).sum())} are chosen every "
        f"time, {int((times == 0).sum())} never\nRecorded in training: {never:.1f} % of all images were never chosen",
        fontsize=12,
    )
    return figure


def _examples(axes: Iterable[Axes], subject: Subject, which: Tensor, times: Tensor) -> None:
    x, y = subject.data["train"].batch(which.to(subject.data["train"].labels.device))
    for axis in axes:
        axis.set_axis_off()
    for axis, picture, label, number in zip(axes, x, y.tolist(), times[which].tolist(), strict=False):
        _image(axis, picture)
        axis.set_title(f"{subject.names[label]}\n{number}×", fontsize=9)


def _frequencies(axis: Axes, times: Tensor, *, share: float, epochs: int) -> None:
    axis.bar(range(epochs + 1), times.bincount(minlength=epochs + 1).tolist(), color=COLOURS[0], label="this arm")
    chance = [len(times) * p for p in by_chance(share=share, epochs=epochs)]
    axis.plot(range(epochs + 1), chance, "D--", color="black", markersize=5, label="by chance")
    axis.set(xlabel=f"times chosen in {epochs} epochs", ylabel="images")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.legend(fontsize=10)


def _image(axis: Axes, image: Tensor, *, frame: bool = False) -> None:
    axis.imshow(image.cpu().permute(1, 2, 0).clamp(0, 1).numpy(), cmap="gray", vmin=0, vmax=1)
    axis.set_axis_on()
    axis.set(xticks=[], yticks=[])
    for spine in axis.spines.values():
        spine.set(visible=True, color=MARK if frame else "0.8", linewidth=3.5 if frame else 0.5)


def _verdict(path: Trajectory, at: int, names: Sequence[str]) -> str:
    probabilities = path.logits[at].softmax(dim=0)
    seen = path.predictions[at]
    word = "right" if seen == path.label else "wrong"
    return f"step {at}: {names[seen]} ({probabilities[seen]:.0%}), {word}"


def _change(path: Trajectory, at: int, eps: float) -> Tensor:
    """Mid-grey where nothing changed, white and black at ± eps."""
    return (path.images[at] - path.clean) / (2 * eps) + 0.5 if eps else torch.full_like(path.clean, 0.5)


def _margins(axis: Axes, path: Trajectory, *, label: str, colour: tuple[float, float, float], style: str = "-") -> None:
    axis.plot(path.margins.numpy(), style, color=colour, marker=".", label=label)
    axis.axhline(0, color="black", linewidth=1)
    axis.set(xlabel="PGD step", ylabel="margin (below 0: wrong)")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
