"""Selective adversarial training: the loop."""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import LongTensor, Tensor

from seladv import checkpoint, state
from seladv.attack import pgd
from seladv.data import Images
from seladv.monitor import finish_epoch
from seladv.progress import bar
from seladv.run import Run

SAVE_EVERY = 300.0  # seconds between saves within an epoch: what a kill can cost at most


class TrainingError(RuntimeError):
    """A run that cannot go on; one line says where and why."""


def training_step(run: Run, index: Tensor) -> tuple[LongTensor, Tensor]:
    """Select, attack the selected, update on the mixed batch (paper, section "method", steps 1 to 5).

    Args:
        run: its network is updated once.
        index: the batch [B], as positions among the training images.

    Returns:
        Indices [k] into the batch of the attacked samples, and the loss before the update.
    """
    x, y = run.batch(index)
    with run.meter("scoring"), run.autocast():
        chosen = run.choose(index, x, y)
    with run.meter("attack"), run.autocast():
        generator = run.generators["attack"]
        x_adv = pgd(run.model, x[chosen], y[chosen], **run.attack, generator=generator, ascend=run.ascend)
    with run.meter("update"):
        with run.autocast():
            loss, logits = run.objective(run.model, x, y, chosen, x_adv)
        run.optimizer.zero_grad()
        loss.backward()
        run.update()
        run.remember(index, logits, y)
    return chosen, loss.detach()


def train_epoch(run: Run, *, save: Callable[[], None] = lambda: None) -> None:
    """The rest of the epoch that `run` stands in; `save` is called every `SAVE_EVERY` seconds.

    Raises:
        TrainingError: the loss is not finite.
    """
    started = saved = time.monotonic()
    batches, epoch = run.batches(), len(run.history) + 1
    with bar(f"epoch {epoch}/{run.settings['epochs']}", total=run.step + len(batches), done=run.step) as shown:
        for index in batches:
            chosen, loss = training_step(run, index)
            if not math.isfinite(value := loss.item()):
                raise TrainingError(
                    f"the loss is {value} in epoch {epoch}, batch {run.step + 1}; "
                    f"try a smaller lr than {run.settings['lr']}"
                )
            run.book(index, chosen, loss)
            shown.set_postfix(loss=f"{value:.3f}", refresh=False)
            shown.update()
            if time.monotonic() - saved > SAVE_EVERY:
                run.spend(time.monotonic() - started)
                save()
                started = saved = time.monotonic()
    run.spend(time.monotonic() - started)


def train(
    settings: dict[str, Any],
    *,
    arm: str,
    seed: int,
    data: dict[str, Images],
    device: torch.device,
    saved: Path | None = None,
    report: Callable[[str], None] = print,
) -> Run:
    """Train one arm with one seed, from its saved state if there is one, and return the finished run.

    Args:
        settings, arm, seed, data, device: see `Run`.
        saved: file that keeps the run's state; a killed run goes on from it. Without it nothing is saved.
        report: called with one line after every epoch.

    Raises:
        TrainingError: the loss or a weight is not finite.
    """
    run = Run(settings, arm=arm, seed=seed, data=data, device=device)
    if saved is not None and saved.exists():
        state.restore(run, *checkpoint.read(saved))
        report(f"resumed {arm} seed {seed} after {len(run.history)} epochs and {run.step} batches")

    def save() -> None:
        if saved is not None:
            checkpoint.write(saved, *state.capture(run))

    while len(run.history) < settings["epochs"]:
        train_epoch(run, save=save)
        line = finish_epoch(run)
        left = (settings["epochs"] - len(run.history)) * line["epoch_seconds"]
        report(
            f"{arm} seed {seed} epoch {line['epoch']}/{settings['epochs']}: loss {line['loss']:.4f}, "
            f"held out clean {line['heldout_clean']:.1f} robust {line['heldout_robust']:.1f}, "
            f"{line['epoch_seconds']:.1f} s, {left / 60:.1f} min left"
        )
        run.start_epoch()
        save()
    if not all(weight.isfinite().all() for weight in run.model.state_dict().values()):
        raise TrainingError(f"a weight is not finite after the last epoch; try a smaller lr than {settings['lr']}")
    return run
