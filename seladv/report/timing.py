"""`python -m seladv.report.timing <protocol>`: what an epoch of each arm takes, the arms in turns on one machine.

Runs that shared their machine with something else cannot be compared by the clock; rounds of the same few batches can.
"""

import os
import random
import sys
from statistics import median
from typing import Any

import torch

from seladv.data import images
from seladv.data.images import Images
from seladv.study import params, places
from seladv.study.places import StudyError
from seladv.training.device import describe, device
from seladv.training.run import Run
from seladv.training.train import train_epoch

BATCHES = 40  # of the epoch's first ones, at most; their time is scaled to the whole epoch
ROUNDS = 5
WARM_UP = 3  # rounds that are not counted: on a GPU a shape is captured when it comes again, and then replayed


def epoch_seconds(
    settings: dict[str, Any], arms: list[str], *, parts: dict[str, Images], device: torch.device
) -> dict[str, list[float]]:
    """Seconds of an epoch of every arm [rounds]; the n-th entries of all arms are one round's, in shuffled order."""
    train = parts["train"]
    share = Images(*(part[: BATCHES * settings["batch_size"]] for part in train))
    few = {**parts, "train": share}
    enough = settings | {"epochs": max(settings["epochs"], WARM_UP + ROUNDS)}  # a one-cycle schedule ends with them
    runs = {arm: Run(enough, arm=arm, seed=0, data=few, device=device) for arm in arms}
    seconds: dict[str, list[float]] = {arm: [] for arm in arms}
    order = random.Random(0)
    for _ in range(WARM_UP + ROUNDS):
        for arm in order.sample(arms, len(arms)):
            seconds[arm].append(train_epoch(runs[arm]) * len(train.labels) / len(share.labels))
    return {arm: times[WARM_UP:] for arm, times in seconds.items()}


def main(protocol: str) -> None:
    """Time the arms of `protocol` and write what `claims.rounds` reads, results/timing/<protocol>.json."""
    root = places.root()
    settings = params.load(root / "params.yaml", protocol)
    parts = images.load(root / "data" / f"{protocol}.safetensors", device=device())
    machine = {**describe(root), "load_before": os.getloadavg()[0]}
    seconds = epoch_seconds(settings.training(), settings.arms, parts=parts, device=device())
    made = {"protocol": protocol, "implementation": "seladv", "batch_size": settings.batch_size, "machine": machine}
    places.write_json(root / "results" / "timing" / f"{protocol}.json", made | {"epoch_seconds": seconds})
    for arm, times in seconds.items():
        print(f"{protocol} {arm}: {median(times):.2f} s an epoch ({min(times):.2f} to {max(times):.2f})")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m seladv.report.timing PROTOCOL")
    try:
        main(sys.argv[1])
    except StudyError as error:
        sys.exit(str(error))
