"""Selective adversarial training: the loop."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import LongTensor, Tensor
from torch.nn.functional import cross_entropy

from seladv import checkpoint, precision
from seladv.attack import pgd
from seladv.data import Images
from seladv.run import Run

SAVE_EVERY = 300.0  # seconds between saves within an epoch: what a kill can cost at most

# What determines a run's result: when one of these changes, its saved state and its stage in dvc.yaml are void.
CODE = ("accuracy", "arms", "attack", "checkpoint", "cost", "data", "gradients", "models", "modes", "precision",
        "run", "seeds", "selection", "train")  # fmt: skip


class TrainingError(RuntimeError):
    """A run that cannot go on; one line says where and why."""


def training_step(run: Run, x: Tensor, y: Tensor) -> tuple[LongTensor, Tensor]:
    """Select, attack the selected, update on the mixed batch (paper, section "method", steps 1 to 5).

    Args:
        run: its network is updated once.
        x: clean images [B, C, H, W] in [0, 1]; the chosen ones are replaced by adversarial ones.
        y: true classes [B].

    Returns:
        Indices [k] of the attacked samples, and the loss before the update: the mean cross-entropy over the
        batch, adversarial where chosen and clean elsewhere, every sample weighing 1/B.
    """
    with run.meter("scoring"), run.autocast():
        chosen = run.arm.choose(run.model, x, y, run.generators["selection"])
    with run.meter("attack"), run.autocast():
        x[chosen] = pgd(run.model, x[chosen], y[chosen], **run.attack, generator=run.generators["attack"])
    with run.meter("update"):
        with run.autocast():
            loss = cross_entropy(run.model(x).float(), y)
        run.optimizer.zero_grad()
        loss.backward()
        run.optimizer.step()
    return chosen, loss.detach()


def train_epoch(run: Run, *, save: Callable[[], None] = lambda: None) -> None:
    """The rest of the epoch that `run` stands in; `save` is called every `SAVE_EVERY` seconds.

    Raises:
        TrainingError: the loss is not finite.
    """
    started = saved = time.monotonic()
    for index in run.batches():
        x, y = run.train.batch(index)
        chosen, loss = training_step(run, x, y)
        if not torch.isfinite(loss):
            raise TrainingError(
                f"the loss is {loss.item()} in epoch {len(run.history) + 1}, batch {run.step + 1}; "
                f"try a smaller lr than {run.settings['lr']}"
            )
        run.book(index, chosen, loss)
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
    state: Path | None = None,
    report: Callable[[str], None] = print,
) -> Run:
    """Train one arm with one seed, from its saved state if there is one, and return the finished run.

    Args:
        settings, arm, seed, data, device: see `Run`.
        state: file that keeps the run's state; a killed run goes on from it. Without it nothing is saved.
        report: called with one line after every epoch.

    Raises:
        TrainingError: the loss or a weight is not finite.
    """
    run = Run(settings, arm=arm, seed=seed, data=data, device=device)
    if state is not None and state.exists():
        run.resume(*checkpoint.read(state))
        report(f"resumed {arm} seed {seed} after {len(run.history)} epochs and {run.step} batches")

    def save() -> None:
        if state is not None:
            checkpoint.write(state, *run.state())

    while len(run.history) < settings["epochs"]:
        train_epoch(run, save=save)
        line = run.finish_epoch()
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


def state_path(folder: Path, settings: dict[str, Any], *, arm: str, seed: int, data: Path) -> Path:
    """Where a run's state belongs in `folder`: named by all that determines the run, its data and code included.

    A changed setting, module, data file, torch, precision or thread count gives another name: no old run is resumed.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    arithmetic = {"torch": torch.__version__, "device": device.type, "threads": torch.get_num_threads()}
    arithmetic["resolved"] = precision.resolve(settings["precision"], device)
    code = (Path(__file__).with_name(f"{name}.py") for name in CODE)
    return folder / f"{arm}-{seed}-{checkpoint.key({**settings, **arithmetic}, data, *code)}.safetensors"
