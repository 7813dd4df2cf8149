"""How long training will take, from a few timed batches: a run that passes `max_hours` stops before it begins."""

import time
from collections.abc import Sequence
from typing import Any

import torch

from seladv.data.images import Images
from seladv.study import arms
from seladv.study.places import StudyError, duration
from seladv.training import cost
from seladv.training.run import Run
from seladv.training.train import training_step

WARM_UP, TIMED = 3, 3  # batches; on a GPU the second of a shape is captured as a graph, and the third replays it


def passes(arm: str, settings: dict[str, Any]) -> float:
    """Passes through the network for each training sample, a backward one counting as one: score + 2Kr + 3."""
    parsed = arms.parse(arm)
    share = parsed.percent / 100
    scored = 0 if "stale" in parsed.switches else sum(cost.scoring(parsed.criterion).values())
    update = 3 * (1 + share) if "whole" in parsed.switches else 3
    return scored + 2 * parsed.attack(settings)["steps"] * share + update


def hours(
    settings: dict[str, Any], plan: Sequence[str], *, arm: str, data: dict[str, Images], device: torch.device
) -> list[float]:
    """Hours of training for each arm of `plan`, from timing `arm` on batches of a run that is then thrown away.

    An estimate: passes are taken to last equally long, and held-out images cost what training images do.
    """
    run = Run(settings | {"weights": None}, arm=arm, seed=0, data=data, device=device)
    batches = run.start_epoch()
    for index in batches[:WARM_UP]:
        _, loss = training_step(run, index)
    timed = batches[WARM_UP : WARM_UP + TIMED] or batches[:1]
    loss.item()  # waits for the device
    started = time.monotonic()
    for index in timed:
        _, loss = training_step(run, index)
    loss.item()
    seconds_per_pass = (time.monotonic() - started) / sum(map(len, timed)) / passes(arm, settings)
    heldout = len(run.heldout.labels) * (2 * settings["steps"] + 5)
    per_epoch = [len(run.train.labels) * passes(name, settings) + heldout for name in plan]
    return [settings["epochs"] * count * seconds_per_pass / 3600 for count in per_epoch]


def check(left: list[float], *, own: float, max_hours: float, protocol: str) -> str:
    """A line about the hours that a run (`own`) and all runs that are `left` take.

    Raises:
        StudyError: they pass `max_hours`.
    """
    line = f"{protocol}: about {duration(own)} for this run, {duration(sum(left))} for the {len(left)} still to train"
    if sum(left) > max_hours:
        raise StudyError(
            f"{line}, more than {protocol}.max_hours = {max_hours:g} of params.yaml allows here: "
            "raise it, ask for fewer arms or seeds, or use a GPU"
        )
    return line
