"""Attacking, scoring and judging borrow a network in eval mode and leave no trace on it."""

from collections.abc import Callable

import pytest
import torch
from conftest import Network
from torch import Tensor, nn

from seladv.accuracy import correct
from seladv.attack import pgd
from seladv.data import Images
from seladv.selection import SELECTORS

Use = Callable[[nn.Module, Tensor, Tensor], object]


def attack(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return pgd(model, x, y, eps=0.1, step_size=0.05, steps=2)


def judge(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return correct(model, Images((x * 255).to(torch.uint8), y), attack=attack)


def select(name: str) -> Use:
    return lambda model, x, y: SELECTORS[name](model, x, y, 5)


USES: dict[str, Use] = {"attack": attack, "judge": judge, **{name: select(name) for name in SELECTORS}}
uses = pytest.mark.parametrize("use", USES.values(), ids=USES)
running = pytest.mark.parametrize("use", [USES[name] for name in USES if name != "random"])


def modes(model: nn.Module) -> list[bool]:
    return [module.training for module in model.modules()]


def half_frozen(model: nn.Module) -> nn.Module:
    """In train mode, but for one layer that its owner keeps in eval mode."""
    list(model.train().children())[1].eval()
    return model


@running
def test_runs_the_network_in_eval_mode(use: Use, network: Network, batch: tuple[Tensor, Tensor]) -> None:
    model, seen = network(), []
    model.register_forward_hook(lambda module, inputs, logits: seen.extend(modes(module)))
    use(model, *batch)
    assert seen
    assert not any(seen)


@uses
def test_every_layer_is_back_in_its_own_mode(use: Use, network: Network, batch: tuple[Tensor, Tensor]) -> None:
    model = half_frozen(network())
    before = modes(model)
    use(model, *batch)
    assert modes(model) == before


@running
def test_every_layer_is_back_in_its_own_mode_after_a_failure(
    use: Use, broken: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    model = half_frozen(broken)
    before = modes(model)
    with pytest.raises(RuntimeError, match="broken network"):
        use(model, *batch)
    assert modes(model) == before


@uses
def test_weights_and_batch_norm_statistics_stay_as_they_were(
    use: Use, network: Network, batch: tuple[Tensor, Tensor]
) -> None:
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    use(model, *batch)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@uses
def test_gradients_of_the_weights_stay_as_they_were(use: Use, network: Network, batch: tuple[Tensor, Tensor]) -> None:
    model = network()
    first, *others = model.parameters()
    first.grad = torch.ones_like(first)
    use(model, *batch)
    assert torch.equal(first.grad, torch.ones_like(first))
    assert all(weight.grad is None for weight in others)


@uses
def test_hooks_stay_as_they_were(use: Use, network: Network, batch: tuple[Tensor, Tensor]) -> None:
    model = network()
    use(model, *batch)
    assert not any(module._forward_hooks for module in model.modules())
