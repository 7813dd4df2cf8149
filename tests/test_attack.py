"""PGD: within the ball and the image range, harmful, reproducible, and precise."""

from typing import Any

import pytest
import torch
from conftest import Network
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from seladv.attack import pgd

ATTACK: dict[str, Any] = {"eps": 0.15, "step_size": 0.03, "steps": 5}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(
    eps=st.floats(0, 1),
    step_size=st.floats(0, 2),
    steps=st.integers(0, 3),
    pixels=st.sampled_from(["black", "white", "black or white", "any"]),
    seed=st.integers(0, 9),
)
def test_never_leaves_the_ball_nor_the_image_range(
    network: Network, eps: float, step_size: float, steps: int, pixels: str, seed: int
) -> None:
    x = torch.rand(4, 1, 8, 8, generator=seeded(seed))
    if pixels != "any":
        x = {"black": torch.zeros_like(x), "white": torch.ones_like(x), "black or white": x.round()}[pixels]
    given_x = x.clone()
    x_adv = pgd(network(seed), x, torch.arange(4), eps=eps, step_size=step_size, steps=steps, generator=seeded(seed))
    assert (x_adv - x).abs().max() <= eps + 1e-6
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1
    assert torch.equal(x, given_x)


def test_hurts_more_than_noise_of_the_same_size(trained: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    x, y = batch

    def loss(images: Tensor) -> float:
        return cross_entropy(trained(images), y).item()

    noisy = pgd(trained, x, y, **ATTACK | {"steps": 0}, generator=seeded())
    attacked = pgd(trained, x, y, **ATTACK, generator=seeded())
    assert loss(attacked) > max(loss(noisy), loss(x))


def test_finds_the_exact_worst_case_of_a_linear_network() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    x, y = torch.rand(8, 1, 8, 8, generator=seeded()), torch.arange(8) % 2
    weight = model[1].weight.detach()
    uphill = (weight[1 - y] - weight[y]).sign().view_as(x)
    x_adv = pgd(model, x, y, eps=0.1, step_size=0.05, steps=4)
    torch.testing.assert_close(x_adv, (x + 0.1 * uphill).clamp(0, 1))


@pytest.mark.parametrize("steps", [0, 3])
def test_without_radius_gives_back_the_image(network: Network, batch: tuple[Tensor, Tensor], steps: int) -> None:
    x, y = batch
    assert torch.equal(pgd(network(), x, y, eps=0, step_size=0.1, steps=steps), x)


def test_without_steps_is_a_uniform_random_start(broken: nn.Module) -> None:
    x = torch.full((40, 1, 8, 8), 0.5)
    noise = pgd(broken, x, torch.zeros(40, dtype=torch.long), eps=0.1, step_size=1, steps=0, generator=seeded()) - x
    tenths = noise.histc(10, -0.1, 0.1) / noise.numel()
    assert (tenths - 0.1).abs().max() < 0.05


def test_same_generator_same_attack_other_generator_another(network: Network, batch: tuple[Tensor, Tensor]) -> None:
    first, again, other = (pgd(network(), *batch, **ATTACK, generator=seeded(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_one_image_is_attacked_alike_in_any_batch(network: Network, batch: tuple[Tensor, Tensor]) -> None:
    x, y = batch
    settings = ATTACK | {"step_size": 0.5}  # two steps end on the surface of the ball, wherever they started
    together = pgd(network(), x, y, **settings, generator=seeded())
    alone = pgd(network(), x[:1], y[:1], **settings, generator=seeded())
    assert torch.equal(together[:1], alone)


def test_gives_the_same_where_gradients_are_off(network: Network, batch: tuple[Tensor, Tensor]) -> None:
    usual = pgd(network(), *batch, **ATTACK, generator=seeded())
    with torch.no_grad():
        inside = pgd(network(), *batch, **ATTACK, generator=seeded())
    assert torch.equal(usual, inside)
    assert not usual.requires_grad


def test_moves_images_in_float32_where_the_network_computes_in_bf16(
    network: Network, batch: tuple[Tensor, Tensor]
) -> None:
    x, y = batch
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert network()(x).dtype == torch.bfloat16
        x_adv = pgd(network(), x, y, **ATTACK)
    assert x_adv.dtype == torch.float32
    assert (x_adv - x).abs().max() <= ATTACK["eps"] + 1e-6
    assert not torch.equal(x_adv, x_adv.bfloat16().float())


def test_nothing_to_attack_runs_nothing(broken: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    x, y = batch
    assert pgd(broken, x[:0], y[:0], **ATTACK).shape == (0, 1, 8, 8)


@pytest.mark.parametrize("pixel", [1.01, -0.01, float("nan"), float("inf")])
def test_images_outside_their_range_are_refused(broken: nn.Module, batch: tuple[Tensor, Tensor], pixel: float) -> None:
    x, y = batch[0].clone(), batch[1]
    x[3, 0, 2, 2] = pixel
    with pytest.raises(ValueError, match=r"^pgd: images must lie in \[0, 1\].*$"):
        pgd(broken, x, y, **ATTACK)


@pytest.mark.parametrize("name", ["eps", "step_size", "steps"])
def test_negative_settings_are_refused(broken: nn.Module, batch: tuple[Tensor, Tensor], name: str) -> None:
    with pytest.raises(ValueError, match=rf"^pgd: .*{name}=-1.*negative$"):
        pgd(broken, *batch, **ATTACK | {name: -1})
