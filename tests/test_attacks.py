"""The attacks beside the protocol's own."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from seladv.attack import pgd
from seladv.data.images import Images
from seladv.evaluation.attacks import sign_noise, surviving
from seladv.gradient import input_gradient
from seladv.training.monitor import correct

EPS = 0.15


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_fgsm(trained: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    x, y = batch
    x_adv = pgd(trained, x, y, eps=EPS, step_size=EPS, steps=1, start=0)
    sign = input_gradient(trained, x, y).sign()
    torch.testing.assert_close(x_adv, (x + EPS * sign).clamp(0, 1))
    assert cross_entropy(trained(x_adv), y) > cross_entropy(trained(x), y)


def test_input_gradient(trained: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    x, y = batch
    together, alone = input_gradient(trained, x, y)[:1], input_gradient(trained, x[:1], y[:1])
    torch.testing.assert_close(together, alone)
    alone = alone * (1 - trained(x[:1]).softmax(dim=1)[0, y[0]]).detach()  # the factor that it leaves out
    step = 1e-3 * alone / alone.norm()
    with torch.no_grad():
        rise = (cross_entropy(trained(x[:1] + step), y[:1]) - cross_entropy(trained(x[:1] - step), y[:1])) / 2e-3
    torch.testing.assert_close(rise, alone.norm(), rtol=0.02, atol=1e-4)


def test_noise() -> None:
    x = torch.full((40, 1, 8, 8), 0.5)
    moved = sign_noise(x, eps=0.1, generator=seeded()) - x
    torch.testing.assert_close(moved.abs(), torch.full_like(x, 0.1))
    assert abs((moved > 0).double().mean() - 0.5) < 0.05


@pytest.mark.parametrize("pixel", [0.0, 1.0])
def test_noise_in_range(pixel: float) -> None:
    x_adv = sign_noise(torch.full((4, 1, 8, 8), pixel), eps=0.3, generator=seeded())
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1


def test_survivors(trained: nn.Module, digits: dict[str, Images]) -> None:
    seen: list[int] = []

    def attack(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        seen.append(len(x))
        return x

    alive = correct(trained, digits["test"])
    alive[::2] = False
    assert torch.equal(surviving(trained, digits["test"], alive, attack), alive)
    assert sum(seen) == alive.sum()
    seen.clear()
    assert not surviving(trained, digits["test"], torch.zeros_like(alive), attack).any()
    assert not seen
