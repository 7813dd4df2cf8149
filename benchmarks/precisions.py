"""Does bf16 change the results? `python -m benchmarks.precisions <protocol> <folder>` trains the same runs in both.

Each arm and seed is judged clean and by the protocol's own PGD, in fp32 for both. A difference is small where it is no
larger than the spread between seeds.
"""

import os
import sys
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.settings import QUICK
from seladv import checkpoint, data, params, paths, provenance, sources
from seladv.data import Images
from seladv.evaluate import accuracies
from seladv.train import train

ARMS, PRECISIONS = ("full", "margin-50"), ("bf16", "fp32")
SEEDS = range(2 if QUICK else 3)
# Three seeds of MNIST in fp32 would take hours: one epoch of a fifth of its images, and as many test images as tell.
FEWER = {"mnist": {"epochs": 1, "train": 12_000, "test": 2_000}} | ({"digits": {"epochs": 1}} if QUICK else {})
KINDS = ("clean", "robust")

Runs = dict[str, dict[str, list[dict[str, float]]]]  # arm → precision → a run for each seed


def runs(protocol: str, *, root: Path) -> Runs:
    """Clean and robust accuracy, percent, of every arm, precision and seed."""
    study = params.load(root / "params.yaml", protocol)
    mirror = os.environ.get("SELADV_MIRROR")
    raw = sources.raw(str(study.data), root=root / "data" / "raw", mirror=Path(mirror) if mirror else None)
    tensors, device = data.split(raw, holdout=study.holdout), provenance.device()
    fewer = FEWER.get(protocol, {})
    parts = {
        part: Images(*(tensors[f"{part}_{kind}"][: fewer.get(part)].to(device) for kind in ("images", "labels")))
        for part in data.PARTS
    }
    every = study.evaluate.model_copy(update={"examples": len(parts["test"].labels)})
    judging = study.model_copy(update={"evaluate": every})

    def judged(arm: str, precision: str, seed: int) -> dict[str, float]:
        settings = study.training() | {"epochs": fewer.get("epochs", study.epochs), "precision": precision}
        run = train(settings, arm=arm, seed=seed, data=parts, device=device, report=lambda line: None)
        return accuracies(run.model, parts["test"], judging, seed=seed)

    return {arm: {p: [judged(arm, p, seed) for seed in SEEDS] for p in PRECISIONS} for arm in ARMS}


def compare(found: Runs) -> list[dict[str, Any]]:
    """A row for each arm and kind of accuracy: how far the precisions are apart, in the mean and at most for one seed.

    `within` says whether that most is no larger than `spread`, the range over the seeds of the more varied precision.
    """
    rows = []
    for arm, runs in found.items():
        for kind in KINDS:
            values = {precision: [run[kind] for run in runs[precision]] for precision in PRECISIONS}
            pairs = [a - b for a, b in zip(*values.values(), strict=True)]
            spread = max(max(seeds) - min(seeds) for seeds in values.values())
            row = {"arm": arm, "kind": kind, **values, "mean": mean(pairs), "most": max(map(abs, pairs))}
            rows.append(row | {"spread": spread, "within": row["most"] <= spread})
    return rows


def measure(protocol: str, *, root: Path) -> dict[str, Any]:
    """`compare` of the protocol's runs, and what produced it."""
    rows = compare(runs(protocol, root=root))
    return {"protocol": protocol, **FEWER.get(protocol, {}), "rows": rows, "provenance": provenance.describe(root)}


if __name__ == "__main__":
    protocol, folder = sys.argv[1:]
    root = paths.root()
    content = measure(protocol, root=root)
    checkpoint.write_json(root / folder / f"precisions-{protocol}.json", content)
    for row in content["rows"]:
        print(row)
