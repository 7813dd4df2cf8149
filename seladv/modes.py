"""Borrow a network in eval mode and hand it back as it was."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Put `model` in eval mode inside the block; every submodule is back in its own former mode after it.

    Scoring and attacking must not move batch-norm statistics, and in train mode a per-sample score would
    depend on the rest of the batch. Modes are restored one by one: a submodule that its owner had frozen
    stays frozen, which `model.train()` would undo.
    """
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
