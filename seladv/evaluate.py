"""How good a finished network is on the test set, clean and under attack."""

import time
from typing import Any

import torch
from torch import Tensor, nn

from seladv.accuracy import correct, percent
from seladv.attack import pgd
from seladv.data import Images
from seladv.params import Protocol
from seladv.seeds import stream


def evaluate(model: nn.Module, test: Images, protocol: Protocol, *, seed: int) -> dict[str, Any]:
    """Clean and robust accuracy, percent, by the protocol's own PGD (the paper's evaluation).

    The network runs in fp32 whatever it was trained in, so that two machines judge it alike. The attack's random
    start comes from `seed`: the arms of one seed meet the same one.

    Raises:
        ValueError: more examples are asked for than the test set has.
    """
    settings = protocol.evaluate
    if settings.examples > len(test.labels):
        raise ValueError(f"evaluate.examples = {settings.examples}: the test set has {len(test.labels)}")
    subset = Images(*(part[: settings.examples] for part in test))
    generator = stream(seed, "evaluation", test.labels.device)

    def attack(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return pgd(
            model, x, y, eps=protocol.eps, step_size=settings.step_size, steps=settings.steps, generator=generator
        )

    started = time.monotonic()
    clean = correct(model, subset)
    robust = clean & correct(model, subset, attack=attack)  # an image lost already is not won back by an attack
    return {
        "clean": percent(clean),
        "robust": percent(robust),
        "evaluation": {
            **settings.model_dump(),
            "eps": protocol.eps,
            "precision": "fp32",
            "threads": torch.get_num_threads(),
            "seconds": time.monotonic() - started,
        },
    }
