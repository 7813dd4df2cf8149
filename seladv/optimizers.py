"""What moves the weights: the optimiser, its schedule, and the running average of the weights."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import ConstantLR, LRScheduler, OneCycleLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


def adam(model: nn.Module, settings: dict[str, Any]) -> Optimizer:
    """Adam with `lr`, `weight_decay` and torch's betas (Kingma and Ba 2015)."""
    return Adam(model.parameters(), lr=settings["lr"], weight_decay=settings["weight_decay"])


def sgd(model: nn.Module, settings: dict[str, Any]) -> Optimizer:
    """Gradient descent with `lr`, `momentum` and `weight_decay`."""
    return SGD(
        model.parameters(), lr=settings["lr"], momentum=settings["momentum"], weight_decay=settings["weight_decay"]
    )


def constant(optimizer: Optimizer, settings: dict[str, Any], steps: int) -> LRScheduler:
    """`lr` throughout."""
    return ConstantLR(optimizer, factor=1, total_iters=0)


def one_cycle(optimizer: Optimizer, settings: dict[str, Any], steps: int) -> LRScheduler:
    """Up to `lr` within the first 30 % of `steps` updates, then down to almost nothing (Smith and Topin 2018)."""
    return OneCycleLR(optimizer, max_lr=settings["lr"], total_steps=steps, cycle_momentum=False)


OPTIMIZERS: dict[str, Callable[[nn.Module, dict[str, Any]], Optimizer]] = {"adam": adam, "sgd": sgd}
SCHEDULES: dict[str, Callable[[Optimizer, dict[str, Any], int], LRScheduler]] = {
    "constant": constant, "one-cycle": one_cycle,
}  # fmt: skip


def average(model: nn.Module, decay: float) -> AveragedModel | None:
    """The exponential moving average of `model`'s weights and batch-norm statistics; None for `decay` 0."""
    if not decay:
        return None
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)


def state(optimizer: Optimizer, schedule: LRScheduler) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Both as named tensors and JSON, for `restore`."""
    whole = optimizer.state_dict()
    tensors = {f"{index}.{slot}": value for index, slots in whole["state"].items() for slot, value in slots.items()}
    return tensors, {"groups": whole["param_groups"], "schedule": schedule.state_dict()}


def restore(
    optimizer: Optimizer, schedule: LRScheduler, tensors: dict[str, torch.Tensor], info: dict[str, Any]
) -> None:
    """Make both stand where `state` was taken."""
    slots: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in tensors.items():
        index, slot = name.split(".")
        slots.setdefault(int(index), {})[slot] = value
    optimizer.load_state_dict({"state": slots, "param_groups": info["groups"]})
    schedule.load_state_dict(info["schedule"])
