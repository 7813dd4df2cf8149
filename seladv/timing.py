"""`python -m seladv.timing <protocol> <file>`: what an epoch of each arm takes, the arms taking turns on one machine.

Runs that shared their machine with something else cannot be compared by the clock; rounds of the same few batches can.
"""

import os
import random
from typing import Any

import torch

from seladv import checkpoint, data, params, paths, plain, provenance
from seladv.data import Images
from seladv.run import Run
from seladv.train import train_epoch

BATCHES = 40  # of the epoch's first ones, at most; their time is scaled to the whole epoch
ROUNDS = 5  # after one that warms up


def epoch_seconds(
    settings: dict[str, Any], arms: list[str], *, parts: dict[str, Images], device: torch.device
) -> dict[str, list[float]]:
    """Seconds of an epoch of every arm [rounds]; the n-th entries of all arms are one round's, in shuffled order."""
    train = parts["train"]
    share = Images(*(part[: BATCHES * settings["batch_size"]] for part in train))
    few = {**parts, "train": share}
    runs = {arm: Run(settings, arm=arm, seed=0, data=few, device=device) for arm in arms}
    seconds: dict[str, list[float]] = {arm: [] for arm in arms}
    order = random.Random(0)
    for _ in range(1 + ROUNDS):
        for arm in order.sample(arms, len(arms)):
            runs[arm].start_epoch()
            train_epoch(runs[arm])
            seconds[arm].append(runs[arm].spent["epoch_seconds"] * len(train.labels) / len(share.labels))
    return {arm: times[1:] for arm, times in seconds.items()}


def main(protocol: str, target: str) -> None:
    """Time the arms of `protocol` and write what `measures.rounds` reads."""
    root, device = paths.root(), provenance.device()
    study = params.load(root / "params.yaml", protocol)
    parts = data.load(root / "data" / f"{protocol}.safetensors", device=device)
    machine = {**provenance.describe(root), "load_before": os.getloadavg()[0]}
    seconds = epoch_seconds(study.training(), study.arms, parts=parts, device=device)
    checkpoint.write_json(root / target, {"machine": machine, "epoch_seconds": seconds})
    for arm, times in seconds.items():
        print(f"{protocol} {arm}: {min(times):.2f} to {max(times):.2f} s an epoch")


if __name__ == "__main__":
    plain.command(main, usage="python -m seladv.timing PROTOCOL FILE")
