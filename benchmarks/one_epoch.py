"""`python -m benchmarks.one_epoch <protocol> <arm> <folder>`: the first epoch of a run, for what it costs.

For protocols whose whole training is out of this machine's reach. The state is saved: killed, it goes on.
"""

import sys
from pathlib import Path

from seladv import checkpoint, data, lineage, params, paths, provenance, record, state
from seladv.monitor import finish_epoch
from seladv.run import Run
from seladv.train import train_epoch


def measure(protocol: str, arm: str, *, root: Path) -> dict[str, object]:
    """Accuracies on the held-out images, counted passes and seconds of the epoch, and what produced them."""
    settings = params.load(root / "params.yaml", protocol, arm=arm).training()
    prepared, device = root / "data" / f"{protocol}.safetensors", provenance.device()
    saved = lineage.state_path(root / "runs" / "one-epoch", settings, arm=arm, seed=0, data=prepared)
    run = Run(settings, arm=arm, seed=0, data=data.load(prepared, device=device), device=device)
    if saved.exists():
        state.restore(run, *checkpoint.read(saved))
    train_epoch(run, save=lambda: checkpoint.write(saved, *state.capture(run)))
    print(finish_epoch(run))
    return {"protocol": protocol, "arm": arm, "seed": 0, **record.summary(run), **provenance.describe(root)}


if __name__ == "__main__":
    protocol, arm, folder = sys.argv[1:]
    root = paths.root()
    checkpoint.write_json(root / folder / f"one-epoch-{protocol}-{arm}.json", measure(protocol, arm, root=root))
