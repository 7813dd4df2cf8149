"""PGD stays within its bounds and does harm; attacking and scoring leave the network as it was."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import Network, random_network
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from seladv.attack import pgd
from seladv.data.images import Images
from seladv.gradient import input_gradient
from seladv.selection import SELECTORS
from seladv.training.monitor import correct

ATTACK: dict[str, Any] = {"eps": 0.15, "step_size": 0.03, "steps": 5}
Batch = tuple[Tensor, Tensor]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(
    eps=st.floats(0, 1),
    step_size=st.floats(0, 2),
    steps=st.integers(0, 3),
    pixels=st.sampled_from(["black", "white", "black or white", "any"]),
    seed=st.integers(0, 9),
)
def test_stays_in_ball_and_range(
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


def test_hurts_more_than_noise(trained: nn.Module, batch: Batch) -> None:
    x, y = batch

    def loss(images: Tensor) -> float:
        return cross_entropy(trained(images), y).item()

    noisy = pgd(trained, x, y, **ATTACK | {"steps": 0}, generator=seeded())
    attacked = pgd(trained, x, y, **ATTACK, generator=seeded())
    assert loss(attacked) > max(loss(noisy), loss(x))


def test_exact_on_linear_network() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    x, y = torch.rand(8, 1, 8, 8, generator=seeded()), torch.arange(8) % 2
    weight = model[1].weight.detach()
    uphill = (weight[1 - y] - weight[y]).sign().view_as(x)
    x_adv = pgd(model, x, y, eps=0.1, step_size=0.05, steps=4)
    torch.testing.assert_close(x_adv, (x + 0.1 * uphill).clamp(0, 1))


@pytest.mark.parametrize("steps", [0, 3])
def test_zero_radius_changes_nothing(network: Network, batch: Batch, steps: int) -> None:
    x, y = batch
    assert torch.equal(pgd(network(), x, y, eps=0, step_size=0.1, steps=steps), x)


def test_start_is_uniform(broken: nn.Module) -> None:
    x = torch.full((40, 1, 8, 8), 0.5)
    noise = pgd(broken, x, torch.zeros(40, dtype=torch.long), eps=0.1, step_size=1, steps=0, generator=seeded()) - x
    tenths = noise.histc(10, -0.1, 0.1) / noise.numel()
    assert (tenths - 0.1).abs().max() < 0.05


def test_reproducible(network: Network, batch: Batch) -> None:
    first, again, other = (pgd(network(), *batch, **ATTACK, generator=seeded(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_batch_size_does_not_matter(network: Network, batch: Batch) -> None:
    x, y = batch
    settings = ATTACK | {"step_size": 0.5}  # two steps end on the surface of the ball, wherever they started
    together = pgd(network(), x, y, **settings, generator=seeded())
    alone = pgd(network(), x[:1], y[:1], **settings, generator=seeded())
    assert torch.equal(together[:1], alone)


def test_works_under_no_grad(network: Network, batch: Batch) -> None:
    usual = pgd(network(), *batch, **ATTACK, generator=seeded())
    with torch.no_grad():
        inside = pgd(network(), *batch, **ATTACK, generator=seeded())
    assert torch.equal(usual, inside)
    assert not usual.requires_grad


def test_images_stay_float32_under_bf16(network: Network, batch: Batch) -> None:
    x, y = batch
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert network()(x).dtype == torch.bfloat16
        x_adv = pgd(network(), x, y, **ATTACK)
    assert x_adv.dtype == torch.float32
    assert (x_adv - x).abs().max() <= ATTACK["eps"] + 1e-6
    assert not torch.equal(x_adv, x_adv.bfloat16().float())


def test_empty_batch(broken: nn.Module, batch: Batch) -> None:
    x, y = batch
    assert pgd(broken, x[:0], y[:0], **ATTACK).shape == (0, 1, 8, 8)


@pytest.mark.parametrize("pixel", [1.01, -0.01, float("nan"), float("inf")])
def test_images_out_of_range_are_refused(broken: nn.Module, batch: Batch, pixel: float) -> None:
    x, y = batch[0].clone(), batch[1]
    x[3, 0, 2, 2] = pixel
    with pytest.raises(ValueError, match=r"^pgd: images must lie in \[0, 1\].*$"):
        pgd(broken, x, y, **ATTACK)


@pytest.mark.parametrize("name", ["eps", "step_size", "steps", "start"])
def test_negative_settings_are_refused(broken: nn.Module, batch: Batch, name: str) -> None:
    with pytest.raises(ValueError, match=rf"^pgd: .*{name}=-1.*negative$"):
        pgd(broken, *batch, **ATTACK | {name: -1})


# ---- the gradient's sign


@pytest.mark.parametrize(("dtype", "least"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
@pytest.mark.parametrize("scale", [0.1, 1, 10])
def test_signs_are_those_of_cross_entropy(batch: Batch, dtype: torch.dtype, least: float, scale: float) -> None:
    model, x, y = random_network(3).eval().to(dtype), batch[0].to(dtype).requires_grad_(), batch[1]
    (usual,) = torch.autograd.grad(cross_entropy(scale * model(x), y, reduction="sum"), x)
    ours = input_gradient(lambda x: scale * model(x), x, y)  # type: ignore[arg-type]
    counts = usual.abs() > least * usual.flatten(1).abs().amax(dim=1)[:, None, None, None]
    assert counts.any(dim=0).float().mean() > 0.9
    assert torch.equal(usual.sign()[counts], ours.sign()[counts])


@pytest.fixture(scope="module")
def fitted() -> tuple[nn.Sequential, Tensor, Tensor]:
    """A network that has learnt 64 random images by heart, and these."""
    generator = seeded()
    x, y = torch.rand(64, 1, 8, 8, generator=generator), torch.randint(10, (64,), generator=generator)
    model = random_network()
    assert isinstance(model, nn.Sequential)
    optimizer = torch.optim.Adam(model.eval().parameters(), lr=0.01)
    for _ in range(200):
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        optimizer.step()
    assert (model(x).argmax(dim=1) == y).all()
    return model, x, y


@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scale", [1, 30, 300, 1000, 3000])
def test_confidence_does_not_stall(
    fitted: tuple[nn.Sequential, Tensor, Tensor], scale: float, dtype: torch.dtype | None
) -> None:
    model, x, y = copy.deepcopy(fitted[0]), *fitted[1:]
    with torch.no_grad():
        model[-1].weight.mul_(scale)
        model[-1].bias.mul_(scale)
    with torch.autocast("cpu", dtype, enabled=dtype is not None):
        x_adv = pgd(model, x, y, eps=0.1, step_size=0.02, steps=15, generator=seeded())
    assert not (model(x_adv).argmax(dim=1) == y).any()


# ---- the network is left as it was

Use = Callable[[nn.Module, Tensor, Tensor], object]


def attack(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return pgd(model, x, y, eps=0.1, step_size=0.05, steps=2)


def evaluate(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return correct(model, Images((x * 255).to(torch.uint8), y), attack=attack)


def select(name: str) -> Use:
    return lambda model, x, y: SELECTORS[name](model, x, y, 5)


USES: dict[str, Use] = {"attack": attack, "evaluate": evaluate, **{name: select(name) for name in SELECTORS}}
RUNNING = {name: use for name, use in USES.items() if name != "random"}  # random does not run the network
uses = pytest.mark.parametrize("use", USES.values(), ids=USES)
running = pytest.mark.parametrize("use", RUNNING.values(), ids=RUNNING)


def modes(model: nn.Module) -> list[bool]:
    return [module.training for module in model.modules()]


def half_frozen(model: nn.Module) -> nn.Module:
    """In train mode, but for one layer that its owner keeps in eval mode."""
    list(model.train().children())[1].eval()
    return model


@running
def test_runs_in_eval_mode(use: Use, network: Network, batch: Batch) -> None:
    model, seen = network(), []
    model.register_forward_hook(lambda module, inputs, logits: seen.extend(modes(module)))
    use(model, *batch)
    assert seen
    assert not any(seen)


@uses
def test_network_is_left_as_it_was(use: Use, network: Network, batch: Batch) -> None:
    """Modes, weights, batch-norm statistics, gradients and hooks."""
    model = half_frozen(network())
    first, *others = model.parameters()
    first.grad = torch.ones_like(first)
    training, state = modes(model), {name: value.clone() for name, value in model.state_dict().items()}
    use(model, *batch)
    assert modes(model) == training
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert torch.equal(first.grad, torch.ones_like(first))
    assert all(weight.grad is None for weight in others)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_statistics_stay_in_train_mode(network: Network, batch: Batch) -> None:
    """Batch norm itself is in train mode here, where a forward pass would move its statistics."""
    for use in USES.values():
        model = network().train()
        state = {name: value.clone() for name, value in model.state_dict().items()}
        use(model, *batch)
        assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


@running
def test_modes_are_restored_after_a_failure(use: Use, broken: nn.Module, batch: Batch) -> None:
    model = half_frozen(broken)
    before = modes(model)
    with pytest.raises(RuntimeError, match="broken network"):
        use(model, *batch)
    assert modes(model) == before
