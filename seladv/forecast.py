"""How long training will take, from a few timed batches: nobody walks blindly into days of it."""

import time
from collections.abc import Sequence
from typing import Any

import torch

from seladv import arms
from seladv.data import Images
from seladv.run import Run
from seladv.selection import CRITERIA
from seladv.train import training_step

BATCHES = 3  # timed, after one that warms up


def passes(arm: str, settings: dict[str, Any]) -> float:
    """Passes through the network for each training sample, a backward one counting as one: score + 2Kr + 3."""
    parsed = arms.parse(arm)
    share = parsed.percent / 100
    scored = 0 if parsed.criterion is None or "stale" in parsed.switches else CRITERIA[parsed.criterion].PASSES
    update = 3 * (1 + share) if "whole" in parsed.switches else 3
    return scored + 2 * parsed.attack(settings)["steps"] * share + update


def hours(
    settings: dict[str, Any], plan: Sequence[str], *, arm: str, data: dict[str, Images], device: torch.device
) -> list[float]:
    """Hours of training for each arm of `plan`, from timing `arm` on batches of a run that is then thrown away.

    An estimate: passes are taken to last equally long, and held-out images cost what training images do.
    """
    run = Run(settings, arm=arm, seed=0, data=data, device=device)
    warm_up, *timed = run.batches()[: 1 + BATCHES]
    training_step(run, warm_up)
    started = time.monotonic()
    for index in timed or [warm_up]:
        _, loss = training_step(run, index)
    loss.item()  # waits for the device
    samples = sum(len(index) for index in timed or [warm_up])
    seconds_per_pass = (time.monotonic() - started) / samples / passes(arm, settings)
    heldout = len(run.heldout.labels) * (2 * settings["steps"] + 5)
    per_epoch = [len(run.train.labels) * passes(name, settings) + heldout for name in plan]
    return [settings["epochs"] * count * seconds_per_pass / 3600 for count in per_epoch]


def check(left: list[float], *, own: float, max_hours: float, protocol: str) -> str:
    """A line about the hours that a run (`own`) and all runs that are `left` take.

    Raises:
        RuntimeError: they pass `max_hours`; one line.
    """
    line = f"{protocol}: about {own:.2g} hours for this run, {sum(left):.2g} for the {len(left)} that are left to train"
    if sum(left) > max_hours:
        raise RuntimeError(
            f"{line}, more than {protocol}.max_hours = {max_hours:g} of params.yaml allows here: "
            "raise it, ask for fewer arms or seeds, or use a GPU"
        )
    return line
