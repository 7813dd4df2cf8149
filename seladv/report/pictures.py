"""The pictures of `notebooks/explore.ipynb`. Each function draws one and returns it; its title says what is seen."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator
from scipy.stats import binom
from seaborn import color_palette
from torch import Tensor, nn

from seladv.attack import eval_mode, pgd
from seladv.report import plots  # noqa: F401 (sets the look of figures, and shows them as pictures)

COLOURS = color_palette("colorblind")
MARK = COLOURS[1]  # orange; a thick frame and a dot as well: not by colour alone
WIDTH = 12.0  # inches, of every picture


class Trajectory(NamedTuple):
    """One clean image [C, H, W] of class `label` under attack: images [T + 1, C, H, W] and logits [T + 1, classes]."""

    clean: Tensor
    images: Tensor
    logits: Tensor
    label: int

    @property
    def margins(self) -> Tensor:
        """The true class's logit minus the largest other one [T + 1]: below 0 the network is wrong."""
        others = self.logits.clone()
        others[:, self.label] = -torch.inf
        return self.logits[:, self.label] - others.amax(dim=1)

    @property
    def predictions(self) -> list[int]:
        """The class that the network predicts for each of the images."""
        return self.logits.argmax(dim=1).tolist()


def trajectory(
    model: nn.Module, x: Tensor, y: Tensor, *, eps: float, step_size: float, steps: int, generator: torch.Generator
) -> Trajectory:
    """What `attack.pgd` makes of one image [1, C, H, W] of class `y` [1]: at its random start and after each step.

    A hook on the network records what `pgd` shows it, so that nothing of the attack is written twice.
    """
    seen: list[tuple[Tensor, Tensor]] = []
    handle = model.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0].detach(), output.detach())))
    try:
        x_adv = pgd(model, x, y, eps=eps, step_size=step_size, steps=steps, generator=generator)
        with eval_mode(model), torch.no_grad():
            model(x_adv)
    finally:
        handle.remove()
    images, logits = (torch.cat(parts).float().cpu() for parts in zip(*seen, strict=True))
    return Trajectory(x[0].cpu(), images, logits, int(y))


def batch(
    x: Tensor, y: Tensor, scores: Tensor, chosen: Tensor, *, names: Sequence[str], title: str, columns: int = 16
) -> Figure:
    """The images [B, C, H, W] of a batch with class and score [B]; those at the indices `chosen` [k] are framed."""
    selected = set(chosen.tolist())
    rows = -(-len(y) // columns)
    figure = Figure(figsize=(WIDTH, 0.5 + 1.08 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes:
        axis.set_axis_off()
    for index, (axis, image, label, score) in enumerate(zip(axes, x, y.tolist(), scores.tolist(), strict=False)):
        framed = index in selected
        _image(axis, image, frame=framed)
        size = 8 if max(map(len, names)) < 6 else 6
        text = f"{'● ' if framed else ''}{names[label]}\n{score:.2g}"
        axis.set_title(text, fontsize=size, weight="bold" if framed else "normal", pad=3)
    figure.suptitle(title, fontsize=12)
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
        f"the network predicts {names[seen]}",
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


def habits(times: Tensor, x: Tensor, y: Tensor, *, names: Sequence[str], share: float, epochs: int) -> Figure:
    """How often each image [N] was chosen in `epochs`, beside random selection of `share`; examples of both ends."""
    figure = Figure(figsize=(WIDTH, 3.8), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1, 1.5), squeeze=False)[0]
    axis = left.subplots()
    axis.bar(range(epochs + 1), times.bincount(minlength=epochs + 1).tolist(), color=COLOURS[0], label="this arm")
    chance = len(times) * binom.pmf(range(epochs + 1), epochs, share)
    axis.plot(range(epochs + 1), chance, "D--", color="black", markersize=5, label="random")
    axis.set(xlabel=f"times chosen in {epochs} epochs", ylabel="images")
    axis.legend(fontsize=10)
    order = times.argsort(descending=True, stable=True)
    for part, most, which in zip(right.subfigures(2, 1), ("most", "least"), (order, order.flip(0)), strict=True):
        part.suptitle(f"chosen {most} often", fontsize=11, fontweight="bold")
        for axis, index in zip(part.subplots(1, 10), which[:10].tolist(), strict=False):
            _image(axis, x[index])
            axis.set_title(f"{names[int(y[index])]}\n{int(times[index])}×", fontsize=9)
    every, never = int((times == epochs).sum()), int((times == 0).sum())
    figure.suptitle(f"Of {len(times)} images {every} are chosen every time, {never} never", fontsize=12)
    return figure


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
