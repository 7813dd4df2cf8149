"""`python -m benchmarks.memory <batch size> <device>`: prints the peak memory of training, MiB."""

import subprocess
import sys
from pathlib import Path

import torch

from benchmarks import epochs
from seladv import cost

ROOT = Path(__file__).parents[1]


def peak(batch_size: int, *, device: torch.device) -> float:
    """Peak memory, MiB, of two training steps of `full`; more steps of the attack would add nothing to it."""
    epochs.epoch(epochs.new_run("full", batches=2, device=device, batch_size=batch_size, steps=2))
    status = Path("/proc/self/status")
    if device.type == "cpu" and status.exists():
        # getrusage would answer with the peak of the parent, which Linux hands down; this mark is the process's own.
        (mark,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(mark.split()[1]) / 1024
    return cost.peak_memory_mb(device)


def measure(batch_size: int, *, device: torch.device) -> float:
    """`peak` from a fresh process: what was measured before in this one would hide it."""
    command = [sys.executable, "-m", "benchmarks.memory", str(batch_size), str(device)]
    return float(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout)


if __name__ == "__main__":
    print(peak(int(sys.argv[1]), device=torch.device(sys.argv[2])))
