"""Selectors: k different samples, the ones that score highest, however the network was left."""

import pytest
import torch
from conftest import Network
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from seladv.selection import SELECTORS

selectors = pytest.mark.parametrize("name", SELECTORS)


def images(count: int, seed: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return torch.rand(count, 1, 8, 8, generator=draw), torch.randint(10, (count,), generator=draw)


@selectors
@given(count=st.integers(1, 12), seed=st.integers(0, 99))
def test_any_k_gives_k_different_samples_of_the_batch(network: Network, name: str, count: int, seed: int) -> None:
    for k in range(count + 1):
        chosen = SELECTORS[name](network(seed), *images(count, seed), k)
        assert chosen.dtype == torch.int64
        assert chosen.shape == (k,)
        assert len(set(chosen.tolist()) & set(range(count))) == k


@selectors
@pytest.mark.parametrize("k", [-1, 6])
def test_an_impossible_k_is_refused(broken: nn.Module, name: str, k: int) -> None:
    with pytest.raises(ValueError, match=rf"^{name}: cannot select {k} of 5 samples$"):
        SELECTORS[name](broken, *images(5, 0), k)


@selectors
def test_a_smaller_k_chooses_among_those_of_a_larger(network: Network, name: str) -> None:
    few, more = (
        SELECTORS[name](network(), *images(20, 0), k, generator=torch.Generator().manual_seed(0)) for k in (5, 9)
    )
    assert torch.equal(few, more[:5])


@selectors
def test_the_mode_that_the_network_was_left_in_does_not_matter(network: Network, name: str) -> None:
    training, evaluating = (
        SELECTORS[name](network().train(mode), *images(20, 0), 7, generator=torch.Generator().manual_seed(0))
        for mode in (True, False)
    )
    assert torch.equal(training, evaluating)


@pytest.mark.parametrize("seed", range(5))
def test_margin_takes_the_samples_whose_two_best_logits_are_closest(network: Network, seed: int) -> None:
    model, (x, y) = network(seed).eval(), images(30, seed)
    margins = []
    for index, logits in enumerate(model(x).tolist()):
        second, first = sorted(logits)[-2:]
        margins.append((first - second, index))
    closest = [index for _, index in sorted(margins)]
    for k in (1, 7, 30):
        assert SELECTORS["margin"](model, x, y, k).tolist() == closest[:k]


def test_margin_does_not_look_at_the_classes(network: Network) -> None:
    x, y = images(20, 0)
    first, other = (SELECTORS["margin"](network(), x, classes, 7) for classes in (y, (y + 1) % 10))
    assert torch.equal(first, other)


def test_random_takes_every_sample_about_equally_often(broken: nn.Module) -> None:
    count, k, draws = 24, 6, 2000
    generator, (x, y) = torch.Generator().manual_seed(0), images(count, 0)
    taken = torch.zeros(count)
    for _ in range(draws):
        taken[SELECTORS["random"](broken, x, y, k, generator=generator)] += 1
    share = k / count
    spread = (draws * share * (1 - share)) ** 0.5  # of a binomial count
    assert ((taken - draws * share).abs() < 5 * spread).all()


def test_random_depends_on_its_generator_alone(broken: nn.Module, network: Network) -> None:
    def draw(model: nn.Module, content: int, seed: int) -> list[int]:
        torch.manual_seed(content)
        generator = torch.Generator().manual_seed(seed)
        return SELECTORS["random"](model, *images(24, content), 12, generator=generator).tolist()

    assert draw(broken, content=0, seed=3) == draw(network(), content=1, seed=3)
    assert draw(broken, content=0, seed=3) != draw(broken, content=0, seed=4)
