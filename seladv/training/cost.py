"""What a run costs: passes through the network by a formula, seconds by the clock."""

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from seladv.selection import CRITERIA

PHASES = ("scoring", "attack", "update", "monitor")
PASSES = ("forward", "input_grad", "weight_grad")

Tally = dict[str, dict[str, int]]


def none() -> Tally:
    """No passes yet."""
    return {phase: dict.fromkeys(PASSES, 0) for phase in PHASES}


def scoring(criterion: str | None) -> dict[str, int]:
    """Passes for scoring one sample: the forward pass, then for exact matching a backward pass and its products."""
    count = CRITERIA[criterion][1] if criterion else 0
    return {name: int(place < count) for place, name in enumerate(PASSES)}


def step(*, scored: int, criterion: str | None, attacked: int, steps: int, updated: int) -> Tally:
    """Samples × passes of one training step.

    A forward pass, a backward pass to the input and a backward pass to the weights count 1 each for a sample.

    Args:
        scored: samples that `criterion` scored.
        attacked: samples that were attacked, with `steps` gradient steps each.
        updated: samples in the update's forward passes.
    """
    attack = attacked * steps
    return {
        "scoring": {name: scored * count for name, count in scoring(criterion).items()},
        "attack": {"forward": attack, "input_grad": attack, "weight_grad": 0},
        "update": dict.fromkeys(PASSES, updated),
        "monitor": dict.fromkeys(PASSES, 0),
    }


def monitoring(samples: int, *, steps: int) -> Tally:
    """Samples × passes of the held-out evaluation: clean, under PGD with `steps` steps, and under one step."""
    gradients = samples * (steps + 1)
    return none() | {"monitor": {"forward": gradients + 3 * samples, "input_grad": gradients, "weight_grad": 0}}


def add(total: Any, part: Any) -> Any:
    """The sum of two nested tallies of the same shape."""
    if isinstance(part, dict):
        return {key: add(total[key], part[key]) for key in part}
    return total + part


def attack_passes(passes: Tally) -> int:
    """Samples × passes of the attack alone."""
    return sum(passes["attack"].values())


def total_passes(passes: Tally) -> int:
    """Samples × passes of scoring, attack and update: what the method costs. The held-out monitor is left out."""
    return sum(sum(passes[phase].values()) for phase in ("scoring", "attack", "update"))


class Clock:
    """Seconds of each phase of training, on a GPU by its own events."""

    def __init__(self, device: torch.device):
        self.device = device
        self.seconds: dict[str, float] = dict.fromkeys(PHASES, 0.0)
        self._pending: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Time the block as part of `phase`."""
        start = self._now()
        yield
        if self.device.type == "cuda":  # the queue runs behind: its events are read when the epoch ends
            self._pending.append((phase, start, self._now()))
        else:
            self.seconds[phase] += self._now() - start

    def take(self) -> dict[str, float]:
        """Seconds of each phase since the last call."""
        if self._pending:
            torch.cuda.synchronize(self.device)
            for phase, start, end in self._pending:
                self.seconds[phase] += start.elapsed_time(end) / 1000
            self._pending.clear()
        taken, self.seconds = self.seconds, dict.fromkeys(PHASES, 0.0)
        return taken

    def _now(self) -> Any:
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def peak_memory_mb(device: torch.device) -> float:
    """Most memory held so far, MiB: allocated on the GPU, or resident in this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    status = Path("/proc/self/status")
    if status.exists():  # getrusage starts from what the parent process held before this one was made
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
