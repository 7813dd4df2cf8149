"""Training epochs on random images, through the study's own loop."""

import statistics
from collections.abc import Iterable
from typing import Any

import torch

from benchmarks import settings, timing
from seladv import cost
from seladv.data import Images
from seladv.run import Run
from seladv.train import train_epoch

PHASES = ("scoring", "attack", "update")


def new_run(arm: str, *, batches: int, device: torch.device, **changes: Any) -> Run:
    """A run of `batches` batches an epoch on random images; `changes` go over the settings' TRAINING."""
    training = settings.TRAINING | changes
    generator = torch.Generator().manual_seed(0)
    count = batches * training["batch_size"]
    images = torch.randint(256, (count, 1, 28, 28), dtype=torch.uint8, generator=generator).to(device)
    part = Images(images, torch.randint(10, (count,), generator=generator).to(device))
    return Run(training, arm=arm, seed=0, data={"train": part, "heldout": part}, device=device)


def epoch(run: Run) -> dict[str, Any]:
    """Train one epoch; the passes, seconds by phase and `epoch_seconds` that the run itself booked."""
    run.start_epoch()
    train_epoch(run)
    return run.spent


def interleave(runs: dict[str, Run], *, repetitions: int) -> dict[str, list[dict[str, Any]]]:
    """What every run spent in each of its epochs, the runs taking turns; the first epoch warms up and is left out."""
    spent: dict[str, list[dict[str, Any]]] = {name: [] for name in runs}
    calls = {name: lambda name=name, run=run: spent[name].append(epoch(run)) for name, run in runs.items()}
    timing.interleave(calls, repetitions=repetitions)
    return {name: lines[1:] for name, lines in spent.items()}


def passes(line: dict[str, Any]) -> float:
    """Counted passes of an epoch."""
    return cost.total_passes(line["passes"])


def phases(line: dict[str, Any]) -> float:
    """Seconds of an epoch that the meter charged to a phase."""
    return sum(line["seconds"][phase] for phase in PHASES)


def summary(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """An arm's epochs: seconds by phase and in whole, and the passes of one of them."""
    seconds = {phase: timing.spread([line["seconds"][phase] for line in lines])._asdict() for phase in PHASES}
    whole = timing.spread([line["epoch_seconds"] for line in lines])._asdict()
    return {"epoch_seconds": whole, "seconds": seconds, "passes": passes(lines[0])}


def growth(label: str, points: Iterable[tuple[float, list[float]]]) -> dict[str, Any]:
    """Medians of repeated values [y] at each x, and the straight line through them with its R²."""
    xs, ys = zip(*((x, timing.spread(values)) for x, values in points), strict=True)
    medians = [y.median for y in ys]
    line = statistics.linear_regression(xs, medians)
    r2 = statistics.correlation(xs, medians) ** 2 if len(set(medians)) > 1 else 0.0
    return {
        "x": label, "points": [{"x": x, **y._asdict()} for x, y in zip(xs, ys, strict=True)],
        "slope": line.slope, "intercept": line.intercept, "r2": r2,
    }  # fmt: skip


def step_growth(label: str, key: str, values: tuple[int, ...], *, device: torch.device) -> dict[str, Any]:
    """Seconds of a training step of margin-50 against one of the training settings."""
    batches = settings.GROWTH_BATCHES
    runs = {str(v): new_run("margin-50", batches=batches, device=device, **{key: v}) for v in values}
    spent = interleave(runs, repetitions=settings.EPOCH_REPETITIONS)
    return growth(label, ((v, [line["epoch_seconds"] / batches for line in spent[str(v)]]) for v in values))
