"""Contestants timed in turns, so that a machine that slows down slows all of them down."""

import math
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from timeit import Timer
from typing import Any, NamedTuple

import torch

Times = dict[str, list[float]]  # contestant → seconds of a call, a value for each round


class Spread(NamedTuple):
    """The middle of some repeated measurements."""

    median: float
    q1: float
    q3: float


def clock() -> float:
    """Seconds, once the GPU has done what was asked of it."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles; of a single value, that value."""
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    q1, median, q3 = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median, q1, q3)


def ratio(above: Sequence[float], below: Sequence[float]) -> Spread:
    """Spread of the ratio round by round: what slows a whole round down cancels out."""
    return spread([a / b for a, b in zip(above, below, strict=True)])


def interleave(
    calls: Mapping[str, Callable[[], Any]], *, repetitions: int, at_least: float = 0.0
) -> tuple[Times, dict[str, Any]]:
    """Time every contestant once per round, in another order each round.

    torch.utils.benchmark warms up before every measurement, which would triple the time of a round: hence timeit.

    Args:
        calls: contestants by name; each is called once before the first round, to warm up.
        repetitions: rounds.
        at_least: seconds that a measurement lasts, if need be by calling several times in a row.

    Returns:
        Seconds per call, and what the warm-up calls returned.
    """
    results = {name: call() for name, call in calls.items()}
    timers = {name: Timer(call, timer=clock) for name, call in calls.items()}
    numbers = {name: math.ceil(at_least / timers[name].timeit(1)) if at_least else 1 for name in calls}
    times: Times = {name: [] for name in calls}
    shuffled = random.Random(0)
    for _ in range(repetitions):
        for name in shuffled.sample(list(calls), len(calls)):
            times[name].append(timers[name].timeit(numbers[name]) / numbers[name])
    return times, results
