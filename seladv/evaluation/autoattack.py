"""AutoAttack (Croce & Hein 2020) and its gradient-free member, through the package `pyautoattack`."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import pyautoattack
import torch
from torch import Tensor, nn

from seladv.attack import eval_mode
from seladv.data.images import Images

MEMBERS = ("apgd-ce", "apgd-t", "fab-t", "square")  # what version "standard" consists of, in its order
QUERIES = 5000  # of Square in version "standard"


class Verdict(NamedTuple):
    """Which images [N] survive, bool, and what the package's own checks had to say."""

    hits: Tensor
    warnings: list[str]


def autoattack(
    model: nn.Module,
    data: Images,
    *,
    eps: float,
    seed: int,
    members: tuple[str, ...] = MEMBERS,
    queries: int = QUERIES,
    batch_size: int = 250,
) -> Verdict:
    """Run version "standard" in the ℓ∞ ball: each member attacks only what the members before it left.

    Args:
        model: maps images in [0, 1] to logits, at least ten classes; attacked in eval mode and left as it was.
        data: the images, taken in their order; those that are wrong already are not attacked.
        eps: radius, in units of the [0, 1] range.
        seed: of every member, for every batch.
        members: some of `MEMBERS`, to run these alone with the settings that they have in "standard".
        queries: forward passes that Square may spend on an image.
        batch_size: images at a time; the members draw their randomness by the batch.
    """
    x, y = data.batch(torch.arange(len(data.labels), device=data.labels.device))
    x = x.contiguous()  # the package reshapes with .view, which channels last may refuse
    with eval_mode(model), _own_randomness(x.device), _collected() as warnings:
        # verbose stays as it is: all it does is log at levels that nobody listens to.
        attack = pyautoattack.AutoAttack(model, norm="Linf", eps=eps, seed=seed, version="standard", device=x.device)
        attack.attacks_to_run = list(members)  # a version "custom" would change the members' settings as well
        attack.square.n_queries = queries
        x_adv, predicted = attack.run_standard_evaluation(x, y, batch_size=batch_size)
    # The package takes an example for a success without a look at it; FAB divides by gradients that may be zero.
    # Only what was right is attacked, so an image that came back invalid was right.
    return Verdict(((predicted == y) | ~_allowed(x_adv, x, eps=eps)).cpu(), warnings)


def _allowed(x_adv: Tensor, x: Tensor, *, eps: float) -> Tensor:
    """Whether each image [N] is finite, in [0, 1] and within eps of its original (to rounding)."""
    inside = (x_adv - x).abs().le(eps + 1e-6) & x_adv.ge(0) & x_adv.le(1)  # false for NaN
    return inside.flatten(1).all(dim=1)


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
def _collected() -> Iterator[list[str]]:
    """The package's warnings, each once, instead of on the screen."""
    lines: list[str] = []

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
        yield lines
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate
        logger.setLevel(level)
