"""The libraries that the benchmark compares with, where `make bench-peers` has installed them."""

import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

FOLDER = Path(__file__).parent / ".peers"
ATTACKS = ("torchattacks", "foolbox")  # for their PGD
GRADIENTS = ("opacus",)  # for its gradients per sample


def load(names: Sequence[str] = (*ATTACKS, *GRADIENTS)) -> dict[str, Any]:
    """The modules of `names`; one line is printed for each that is missing."""
    if str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))  # last: nothing in there can stand in for a package of the study
    found = {}
    for name in names:
        try:
            found[name] = importlib.import_module(name)
        except ImportError as error:
            print(f"{name} is left out, `make bench-peers` installs it ({error})", flush=True)
    return found


def attacks(
    found: dict[str, Any], model: nn.Module, x: Tensor, y: Tensor, *, eps: float, step_size: float, steps: int
) -> dict[str, Callable[[], Tensor]]:
    """Each peer's PGD on `model` (in eval mode), with the settings of `seladv.attack.pgd`."""
    calls: dict[str, Callable[[], Tensor]] = {}
    if "torchattacks" in found:
        attack = found["torchattacks"].PGD(model, eps=eps, alpha=step_size, steps=steps, random_start=True)
        calls["torchattacks"] = lambda: attack(x, y)
    if "foolbox" in found:
        wrapped = found["foolbox"].PyTorchModel(model, bounds=(0, 1), device=x.device)
        linf = found["foolbox"].attacks.LinfPGD(abs_stepsize=step_size, steps=steps, random_start=True)
        # `run` is the bare attack; calling `linf` itself would add an evaluation that the others do not make.
        calls["foolbox"] = lambda: linf.run(wrapped, x, y, epsilon=eps)
    return calls
