"""A run's state as tensors and JSON: what a killed run goes on from, bit for bit."""

from typing import Any

from torch import Tensor, nn

from seladv import optimizers
from seladv.run import Run

COUNTERS = ("order", "loss", "selected_classes", "times_selected", "remembered")


def capture(run: Run) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Everything of `run` that changes, as named tensors and JSON."""
    moved, info = optimizers.state(run.optimizer, run.schedule)
    groups = {
        "optimizer": moved,
        "generator": {name: generator.get_state() for name, generator in run.generators.items()},
        "counter": {name: getattr(run, name) for name in COUNTERS},
        **{f"network/{name}": network.state_dict() for name, network in _networks(run).items()},
        **{f"kept/{name}": weights for name, weights in run.kept.items()},
    }
    tensors = {f"{group}:{name}": value for group, values in groups.items() for name, value in values.items()}
    return tensors, {**info, "step": run.step, "history": run.history, "spent": run.spent}


def restore(run: Run, tensors: dict[str, Tensor], info: dict[str, Any]) -> None:
    """Stand again where `capture` was taken."""
    run.history = info["history"]
    run.start_epoch()  # the modes of the network's modules, which depend on the epoch
    groups: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        group, _, name = key.partition(":")
        groups.setdefault(group, {})[name] = value
    optimizers.restore(run.optimizer, run.schedule, groups.get("optimizer", {}), info)
    for name, value in groups["generator"].items():
        run.generators[name].set_state(value)
    for name, value in groups["counter"].items():
        setattr(run, name, value if name == "order" else value.to(run.device))
    for name, network in _networks(run).items():
        network.load_state_dict(groups[f"network/{name}"])
    run.kept = {group.removeprefix("kept/"): values for group, values in groups.items() if group.startswith("kept/")}
    run.step, run.spent = info["step"], info["spent"]


def _networks(run: Run) -> dict[str, nn.Module]:
    return {"model": run.model} | ({"average": run.average} if run.average else {})
