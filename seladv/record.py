"""What a finished run leaves behind: its networks, and a record of how it came about."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from seladv import checkpoint, cost, models
from seladv.monitor import best_epoch
from seladv.run import Run


def summary(run: Run) -> dict[str, Any]:
    """A run's settings, history and cost, as JSON can hold them. Seconds and passes are per epoch and in total."""
    total = {key: run.history[0][key] for key in ("passes", "seconds", "epoch_seconds")}
    for line in run.history[1:]:
        total = cost.add(total, {key: line[key] for key in total})
    return {
        "settings": run.settings,
        "precision": run.precision,
        "best_epoch": best_epoch(run.history),
        "history": run.history,
        "cost": {
            **total,
            "attack_passes": cost.attack_passes(total["passes"]),
            "total_passes": cost.total_passes(total["passes"]),
            "seconds_per_epoch": total["epoch_seconds"] / len(run.history),
            "peak_memory_mb": cost.peak_memory_mb(run.device),
        },
    }


def save_models(folder: Path, run: Run) -> None:
    """Write the run's networks: `last`, `best`, `middle`, and `average` where the run keeps one.

    Each file holds the weights, and the name and number of classes that the network is built by.
    """
    networks = {"last": run.model.state_dict(), **run.kept}
    if run.average:
        networks["average"] = run.average.module.state_dict()
    for name, weights in networks.items():
        checkpoint.write(
            folder / f"{name}.safetensors", weights, {"model": run.settings["model"], "classes": run.classes}
        )


def load_model(path: Path, name: str, *, device: torch.device) -> nn.Module:
    """The network in `path`, in eval mode on `device`.

    Raises:
        FileNotFoundError, ValueError: no such file, not a whole one, or another network's; one line each.
    """
    weights, info = checkpoint.read(path)
    if info.get("model") != name:
        raise ValueError(f"{path} holds a {info.get('model')!r}, but the protocol's model is {name!r}: train again")
    model = models.build(name, seed=0, classes=info.get("classes", 10), device=device)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} does not fit the network {name!r}: {reason}; train again") from None
    return model.eval()
