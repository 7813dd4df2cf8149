"""Peak memory, MiB, each in a process of its own: what was measured before in the same one would hide it.

`python -m benchmarks.memory training <batch size> <device>` prints that of a whole training process;
`python -m benchmarks.memory scoring <way> <case> <batch size> <device>` what scoring a batch takes besides all that the
process held before.
"""

import gc
import subprocess
import sys
from pathlib import Path

import torch

from benchmarks import epochs, peers, scoring, settings
from seladv import cost

ROOT = Path(__file__).parents[1]
SELF = Path("/proc/self")


def training(batch_size: int, *, device: torch.device) -> float:
    """Peak of two training steps of `full`; more steps of the attack would add nothing to it."""
    epochs.epoch(epochs.new_run("full", batches=2, device=device, batch_size=batch_size, steps=2))
    return cost.peak_memory_mb(device)


def of_scoring(way: str, case: str, batch_size: int, *, device: torch.device) -> float:
    """Peak of one call of `way` (see `scoring.NAMES`) in fp32, over what network, images and libraries take.

    Raises:
        OSError: the system keeps no mark of a process's own peak (Linux does).
    """
    found = peers.load((way,) if way in peers.GRADIENTS else ())
    (network,) = (one for one in settings.CASES if one.name == case)
    model, x, y = scoring.sample(network, batch_size, device=device)
    scoring.calls(model, x[:2], y[:2], number_format="fp32", found=found)[way]()  # loads what a first call loads
    call = scoring.calls(model, x, y, number_format="fp32", found=found)[way]
    gc.collect()
    held = restart(device)
    call()
    return cost.peak_memory_mb(device) - held


def restart(device: torch.device) -> float:
    """Let the peak start anew from what is held now: that, MiB."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        (SELF / "clear_refs").write_text("5")
    return cost.peak_memory_mb(device)


def measure(*question: object) -> float:
    """The answer of a fresh process to `python -m benchmarks.memory <question>`."""
    command = [sys.executable, "-m", "benchmarks.memory", *map(str, question)]
    return float(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["training", size, where]:
            print(training(int(size), device=torch.device(where)))
        case ["scoring", way, case, size, where]:
            print(of_scoring(way, case, int(size), device=torch.device(where)))
        case _:
            sys.exit(str(__doc__))
