"""AutoAttack (Croce & Hein 2020), version "standard", member by member, through the package `pyautoattack`."""

import json
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyautoattack
import torch
from torch import Tensor, nn

from seladv.attack import eval_mode
from seladv.data.images import Images
from seladv.evaluation.attacks import entry, full_fp32
from seladv.evaluation.outcomes import MEMBERS, members, survivors
from seladv.study import places
from seladv.training.monitor import correct


@full_fp32()
def autoattack(
    model: nn.Module, data: Images, *, eps: float, seed: int, saved: Path | None = None, queries: int = 5000
) -> dict[str, Any]:
    """Run version "standard" in the ℓ∞ ball: each member attacks only what the members before it left.

    With fewer than ten classes the targeted members aim at all other classes, and `outcomes.members` leaves out what
    needs more classes still.

    Args:
        model: maps images in [0, 1] to logits; attacked in eval mode and left as it was.
        data: the images [N], taken in their order; those that are wrong already are not attacked.
        eps: radius, in units of the [0, 1] range.
        seed: of every member, for every batch.
        saved: a file that keeps the outcomes after each member: a run that was killed goes on with that member.
        queries: forward passes that Square may spend on an image; "standard" has 5,000.

    Returns:
        Robust accuracy in percent and the packed outcomes; `members`, the same after each of them; `left_out`, the
        members that the classes are too few for; `warnings`, what the package's own checks had to say.
    """
    x, y = data.batch(torch.arange(len(data.labels), device=data.labels.device))
    x = x.contiguous()  # the package reshapes with .view, which channels last may refuse
    with torch.no_grad(), eval_mode(model):
        classes = model(x[:1]).shape[1]
    done: dict[str, Any] = (
        json.loads(saved.read_text()) if saved and saved.exists() else {"members": {}, "warnings": []}
    )
    alive = clean = correct(model, data)
    for name in members(classes):
        if name not in done["members"]:
            begun = time.monotonic()
            with eval_mode(model), _own_randomness(x.device), _collected(done["warnings"]) as logger:
                attack = _member(name, model, eps=eps, seed=seed, classes=classes, queries=queries, device=x.device)
                left = alive.clone()
                left[alive] = _survive(attack, x[alive.to(x.device)], y[alive.to(y.device)])
                rates = {"clean": clean, "before": alive, name: left}
                # The package's check of what Square adds, which needs the members before it.
                pyautoattack.checks.check_square_sr(
                    {k: v.double().mean().item() for k, v in rates.items()}, logger=logger
                )
            done["members"][name] = {**entry(left), "seconds": time.monotonic() - begun}
            print("{name}: {robust:.2f} %, {seconds:.0f} s".format(name=name, **done["members"][name]), flush=True)
            if saved:
                places.write_json(saved, done)
        alive = survivors(done["members"][name])
    return {**entry(alive), "eps": eps, "left_out": [name for name in MEMBERS if name not in done["members"]], **done}


def _member(
    name: str, model: nn.Module, *, eps: float, seed: int, classes: int, queries: int, device: torch.device
) -> pyautoattack.AutoAttack:
    """One member with the settings that it has in "standard"; a version "custom" would change them."""
    attack = pyautoattack.AutoAttack(model, norm="Linf", eps=eps, seed=seed, version="standard", device=device)
    attack.attacks_to_run = [name]
    attack.apgd_targeted.n_target_classes = attack.fab.n_target_classes = min(9, classes - 1)
    attack.square.n_queries = queries
    return attack


def _survive(attack: pyautoattack.AutoAttack, x: Tensor, y: Tensor) -> Tensor:
    """Which of the images [B, C, H, W], all of them right, the member leaves right [B], on the CPU."""
    if not len(y):
        return torch.ones(0, dtype=torch.bool)
    x_adv, predicted = attack.run_standard_evaluation(x, y)
    # The package takes an example for a success without a look at it; FAB divides by gradients that may be zero.
    # Only what was right is attacked, so an image that came back invalid was right.
    inside = (x_adv - x).abs().le(attack.epsilon + 1e-6) & x_adv.ge(0) & x_adv.le(1)  # to rounding; false for NaN
    return ((predicted == y) | ~inside.flatten(1).all(dim=1)).cpu()


@contextmanager
def _own_randomness(device: torch.device) -> Iterator[None]:
    """The package seeds torch's global generators and takes the interpreter's trace function: give both back."""
    trace = sys.gettrace()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            sys.settrace(trace)


@contextmanager
def _collected(lines: list[str]) -> Iterator[logging.Logger]:
    """The package's logger, its warnings added to `lines`, each once, instead of shown on the screen."""

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if (line := record.getMessage()) not in lines:
                lines.append(line)

    logger, handler = logging.getLogger("auto-attack"), Collect(logging.WARNING)
    propagate, level = logger.propagate, logger.level
    logger.addHandler(handler)
    logger.propagate = False
    logger.setLevel(logging.WARNING)
    try:
        yield logger
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate
        logger.setLevel(level)
