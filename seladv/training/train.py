"""Selective adversarial training: the loop."""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import LongTensor, Tensor, nn
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from seladv.attack import pgd
from seladv.data.images import Images
from seladv.study.places import StudyError
from seladv.training import checkpoint
from seladv.training.monitor import finish_epoch
from seladv.training.run import Run

CLEAN_WEIGHT = 0.2  # in the authors' code


def mixed(model: nn.Module, x: Tensor, y: Tensor, chosen: Tensor, x_adv: Tensor) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy over the batch, adversarial where chosen and clean elsewhere (paper, step 4).

    Args:
        model: in train mode; run once.
        x, y: clean images [B, C, H, W] and true classes [B].
        chosen, x_adv: indices [k] of the attacked samples, and their adversarial images [k, C, H, W].

    Returns:
        The loss, and the logits [B, classes] that it came from.
    """
    logits = model(x.index_copy(0, chosen, x_adv))
    return cross_entropy(logits.float(), y), logits


def whole_batch(model: nn.Module, x: Tensor, y: Tensor, chosen: Tensor, x_adv: Tensor) -> tuple[Tensor, Tensor]:
    """The objective in the authors' code: mean over the adversarial samples + 0.2 × mean over the whole clean batch.

    Arguments and result as in `mixed`, the logits being the clean batch's; the network runs twice.
    """
    logits = model(x)
    loss = CLEAN_WEIGHT * cross_entropy(logits.float(), y)
    return (cross_entropy(model(x_adv).float(), y[chosen]) + loss if len(chosen) else loss), logits


def training_step(run: Run, index: Tensor) -> tuple[LongTensor, Tensor]:
    """Select, attack the selected, update on the mixed batch (paper, section "method", steps 1 to 5).

    Args:
        run: its network is updated once.
        index: the batch [B], as positions among the training images.

    Returns:
        Indices [k] into the batch of the attacked samples, and the loss before the update.
    """
    x, y = run.batch(index)
    with run.clock("attack"):
        network = run.frozen.refold()
    with run.clock("scoring"), run.autocast():
        chosen = run.choose(network, index, x, y)
    with run.clock("attack"), run.autocast():
        generator = run.generators["attack"]
        x_adv = pgd(network, x[chosen], y[chosen], **run.attack, generator=generator, ascend=run.ascend)
    with run.clock("update"):
        objective = whole_batch if "whole" in run.arm.switches else mixed
        with run.autocast():
            loss, logits = objective(run.model, x, y, chosen, x_adv)
        run.optimizer.zero_grad()
        run.scaler.scale(loss).backward()
        run.scaler.step(run.optimizer)
        run.scaler.update()
        run.schedule.step()
        run.remember(index, logits, y)
    return chosen, loss.detach()


def train_epoch(run: Run) -> float:
    """One epoch of `run`; returns its seconds.

    Raises:
        StudyError: the loss is not finite.
    """
    started, epoch = time.monotonic(), len(run.history) + 1
    title = f"epoch {epoch}/{run.settings['epochs']}"
    for number, index in enumerate(tqdm(run.start_epoch(), desc=title, unit="batch", leave=False, disable=None), 1):
        chosen, loss = training_step(run, index)
        if not math.isfinite(value := loss.item()):
            raise StudyError(
                f"the loss is {value} in epoch {epoch}, batch {number}; try a smaller lr than {run.settings['lr']}"
            )
        run.book(index, chosen, value)
    return time.monotonic() - started


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
        saved: file that keeps the run's state after every epoch; a killed run resumes from it. Not saved without it.
        report: called with one line after every epoch.

    Raises:
        StudyError: the loss or a weight is not finite.
    """
    run = Run(settings, arm=arm, seed=seed, data=data, device=device)
    if saved is not None and saved.exists():
        run.restore(checkpoint.load_state(saved))
        report(f"resumed {arm} seed {seed} after {len(run.history)} epochs")
    while len(run.history) < settings["epochs"]:
        line = finish_epoch(run, seconds=train_epoch(run))
        left = (settings["epochs"] - len(run.history)) * line["epoch_seconds"]
        report(
            f"{arm} seed {seed} epoch {line['epoch']}/{settings['epochs']}: loss {line['loss']:.4f}, "
            f"held out clean {line['heldout_clean']:.1f} robust {line['heldout_robust']:.1f}, "
            f"{line['epoch_seconds']:.1f} s, {left / 60:.1f} min left"
        )
        if saved is not None:
            checkpoint.save_state(saved, run.state())
    if not all(weight.isfinite().all() for weight in run.model.state_dict().values()):
        raise StudyError(f"a weight is not finite after the last epoch; try a smaller lr than {settings['lr']}")
    return run
