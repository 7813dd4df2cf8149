"""Robust accuracy against the size of the attack and against its steps: where an honest evaluation levels off."""

from torch import Tensor, nn

from seladv.data.images import Images, stream
from seladv.evaluation.attacks import pgd_attack, surviving
from seladv.study.protocol import Protocol
from seladv.training.monitor import percent

Curve = list[list[float]]

FACTORS = (0.25, 0.5, 0.75, 1, 1.25, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)


def robust(
    model: nn.Module, data: Images, clean: Tensor, *, eps: float, step_size: float, steps: int, seed: int
) -> float:
    """Percent right under PGD. The starts depend on the seed alone: two points of a curve differ in nothing else."""
    generator = stream(seed, "curves", data.labels.device)
    attack = pgd_attack(eps=eps, step_size=step_size, steps=steps, generator=generator)
    return percent(surviving(model, data, clean, attack))


def against_eps(model: nn.Module, data: Images, clean: Tensor, protocol: Protocol, *, seed: int) -> Curve:
    """[[eps, robust accuracy in percent], ...] from eps = 0 until nothing is right any more or eps = 1.

    The step size grows with eps, the number of steps is the protocol's.
    """
    points = [[0.0, percent(clean)]]
    for factor in FACTORS:
        eps = min(factor * protocol.eps, 1.0)
        size = min(factor * protocol.evaluate.step_size, 1.0)
        steps = protocol.evaluate.steps
        points.append([eps, robust(model, data, clean, eps=eps, step_size=size, steps=steps, seed=seed)])
        if points[-1][1] == 0 or eps == 1:
            break
    return points


def step_counts(steps: int) -> list[int]:
    """1, 2, 5, 10, 20, 40, ... up to twice `steps`; `steps` and its double are always among them."""
    counts = {1, 2, 5, steps, 2 * steps}
    count = 10
    while count < 2 * steps:
        counts.add(count)
        count *= 2
    return sorted(count for count in counts if count <= 2 * steps)


def against_steps(model: nn.Module, data: Images, clean: Tensor, protocol: Protocol, *, seed: int) -> Curve:
    """[[steps, robust accuracy in percent], ...] at the protocol's eps and step size."""
    size = protocol.evaluate.step_size
    return [
        [steps, robust(model, data, clean, eps=protocol.eps, step_size=size, steps=steps, seed=seed)]
        for steps in step_counts(protocol.evaluate.steps)
    ]
