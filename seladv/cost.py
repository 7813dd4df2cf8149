"""What a run costs: passes counted where they happen, seconds on the clock beside them."""

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

PHASES = ("scoring", "attack", "update", "monitor")
PASSES = ("forward", "input_grad", "weight_grad")

Tally = dict[str, dict[str, float]]


class Meter:
    """Counts samples × passes and seconds of each phase of training.

    Passes are counted by hooks on the network itself, so that a phase is charged for what it ran and not for what
    a formula expects: one sample's forward pass, backward pass to the input and backward pass to the weights count
    1 each (the update runs all three). `monitor` is the held-out evaluation, which is no part of the method.
    """

    def __init__(self, model: nn.Module, device: torch.device):
        self.passes: Tally = {phase: dict.fromkeys(PASSES, 0) for phase in PHASES}
        self.seconds: dict[str, float] = dict.fromkeys(PHASES, 0.0)
        self._device = device
        self._phase: str | None = None
        self._pending: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []
        model.register_forward_hook(self._count)

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Charge what happens inside the block to `phase`."""
        self._phase = phase
        start = self._now()
        try:
            yield
        finally:
            self._charge(phase, start)
            self._phase = None

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Count no pass inside the block; its time is charged as ever."""
        phase, self._phase = self._phase, None
        try:
            yield
        finally:
            self._phase = phase

    def attacked(self, count: int) -> None:
        """Count `count` forward passes and backward passes to the input that ran where no hook sees them."""
        if self._phase is not None:
            self.passes[self._phase]["forward"] += count
            self.passes[self._phase]["input_grad"] += count

    def take(self) -> dict[str, Any]:
        """What was charged since the last call: {"passes": {phase: {pass: n}}, "seconds": {phase: s}}."""
        if self._pending:
            torch.cuda.synchronize(self._device)
            for phase, start, end in self._pending:
                self.seconds[phase] += start.elapsed_time(end) / 1000
            self._pending.clear()
        taken = {"passes": self.passes, "seconds": self.seconds}
        self.passes = {phase: dict.fromkeys(PASSES, 0) for phase in PHASES}
        self.seconds = dict.fromkeys(PHASES, 0.0)
        return taken

    def _now(self) -> Any:
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _charge(self, phase: str, start: Any) -> None:
        if self._device.type == "cuda":  # the queue runs behind: its events are read when the epoch ends
            self._pending.append((phase, start, self._now()))
        else:
            self.seconds[phase] += self._now() - start

    def _count(self, model: nn.Module, inputs: tuple[Tensor, ...], logits: Tensor) -> None:
        if self._phase is None:
            return
        count, passes = len(inputs[0]), self.passes[self._phase]
        passes["forward"] += count
        if logits.requires_grad:
            to_weights = not inputs[0].requires_grad  # an attack differentiates its input, an update the weights

            def backward(_: Tensor) -> None:
                passes["input_grad"] += count
                passes["weight_grad"] += count * to_weights

            logits.register_hook(backward)


def add(total: Any, part: Any) -> Any:
    """The sum of two nested tallies of the same shape."""
    if isinstance(part, dict):
        return {key: add(total[key], part[key]) for key in part}
    return total + part


def attack_passes(passes: Tally) -> float:
    """Samples × passes of the attack alone."""
    return sum(passes["attack"].values())


def total_passes(passes: Tally) -> float:
    """Samples × passes of scoring, attack and update: what the method costs. The held-out monitor is left out."""
    return sum(sum(passes[phase].values()) for phase in ("scoring", "attack", "update"))


def peak_memory_mb(device: torch.device) -> float:
    """Most memory held so far, MiB: allocated on the GPU, or resident in this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    status = Path("/proc/self/status")
    if status.exists():  # getrusage starts from what the parent process held before this one was made
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
