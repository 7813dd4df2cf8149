"""A contest: ways to the same result, timed in turns, so that a machine that slows down slows all of them down."""

import random
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor, nn

from seladv.training import models

LEAST, MOST = 3, 21  # rounds
WARMUPS = 3 if torch.cuda.is_available() else 1  # a CUDA graph is captured in the second call

Calls = dict[str, Callable[[], Any]]


class Case(NamedTuple):
    """A network, a batch of its images [B, C, H, W], and what `seladv.attack.pgd` is called with."""

    model: str
    batch: int
    shape: tuple[int, int, int]
    attack: dict[str, Any]


MNIST = Case("mnist-cnn", 64, (1, 28, 28), {"eps": 0.3, "step_size": 0.01, "steps": 40})
NARROW = Case("resnet18-narrow", 128, (3, 32, 32), {"eps": 8 / 255, "step_size": 2 / 255, "steps": 10})
RESNET = Case("resnet18", 64, (3, 32, 32), {"eps": 8 / 255, "step_size": 2 / 255, "steps": 5})  # a CPU needs seconds
CASES = (MNIST, NARROW, RESNET)


def sample(case: Case, device: torch.device) -> tuple[nn.Module, Tensor, Tensor]:
    """The network in eval mode, random images in its layout, and random classes: the same on every device."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(case.batch, *case.shape, generator=generator)
    y = torch.randint(10, (case.batch,), generator=generator)
    model = models.build(case.model, seed=0, device=device).eval()
    return model, x.to(device, memory_format=torch.channels_last), y.to(device)


class Contest(NamedTuple):
    """What is timed, and how it is told."""

    title: str  # what all contestants work on
    unit: str  # what milliseconds are given for
    units: int  # in one call
    reference: str  # the contestant whose time the others' are divided by
    calls: Calls
    check: Callable[[dict[str, Any]], dict[str, float]]  # what the calls returned → numbers that show who did the work


def run(contest: Contest, *, seconds: float) -> list[dict[str, Any]]:
    """A row for each contestant: median and quartiles of its milliseconds, and of its ratio to the reference.

    The ratio is taken round by round: what slows down a whole round cancels out. `seconds`: see `in_turns`.
    """
    results = {}
    for name, call in contest.calls.items():
        for _ in range(WARMUPS):
            with torch.random.fork_rng():
                torch.manual_seed(0)  # attacks that draw alike start alike
                results[name] = call()
    checked = contest.check(results)
    times = in_turns(contest.calls, seconds=seconds)
    ratios = times.div(times[contest.reference], axis=0)
    shared = {"contest": contest.title, "unit": contest.unit, "rounds": len(times)}
    return [
        {
            **shared,
            "contestant": name,
            "ms": _spread(times[name] * 1000 / contest.units),
            "ratio": _spread(ratios[name]),
            "check": checked.get(name),
        }
        for name in contest.calls
    ]


def in_turns(calls: Calls, *, seconds: float) -> pd.DataFrame:
    """Seconds of each call, a column for each contestant and a row for each round, in another order each round.

    Rounds go on until `seconds` are over; there are `LEAST` to `MOST` of them.
    """
    shuffled, started = random.Random(0), clock()
    rounds: list[dict[str, float]] = []
    while len(rounds) < LEAST or (len(rounds) < MOST and clock() - started < seconds):
        rounds.append({name: _timed(calls[name]) for name in shuffled.sample(list(calls), len(calls))})
    return pd.DataFrame(rounds, columns=list(calls))


def clock() -> float:
    """Seconds, once the GPU has done what was asked of it."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def _timed(call: Callable[[], Any]) -> float:
    started = clock()
    call()
    return clock() - started


def _spread(values: Any) -> dict[str, float]:
    return dict(zip(("q1", "median", "q3"), map(float, values.quantile([0.25, 0.5, 0.75])), strict=True))
