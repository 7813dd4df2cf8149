"""Selection: k different samples, those with the highest score, whatever mode the network is in."""

import math
import subprocess
import sys

import pytest
import torch
from conftest import Network
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.functional import cross_entropy

import seladv
from seladv import attack, selection
from seladv.selection import SCORES, SELECTORS, select
from seladv.selection.topk import drawn
from seladv.study import arms

selectors = pytest.mark.parametrize("name", SELECTORS)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(count: int, seed: int) -> tuple[Tensor, Tensor]:
    draw = seeded(seed)
    return torch.rand(count, 1, 8, 8, generator=draw), torch.randint(10, (count,), generator=draw)


@selectors
@given(count=st.integers(1, 12), seed=st.integers(0, 99))
def test_any_k_gives_k_samples(network: Network, name: str, count: int, seed: int) -> None:
    for k in range(count + 1):
        chosen = SELECTORS[name](network(seed), *images(count, seed), k)
        assert chosen.dtype == torch.int64
        assert chosen.shape == (k,)
        assert len(set(chosen.tolist()) & set(range(count))) == k


@selectors
@pytest.mark.parametrize("k", [-1, 6])
def test_impossible_k_is_refused(broken: nn.Module, name: str, k: int) -> None:
    with pytest.raises(ValueError, match=rf"^cannot select {k} of 5 samples: give a k from 0 to 5$"):
        SELECTORS[name](broken, *images(5, 0), k)


@selectors
def test_other_number_of_classes_is_refused(broken: nn.Module, name: str) -> None:
    x, y = images(5, 0)
    with pytest.raises(ValueError, match=r"^cannot select from 5 samples with 4 classes: "):
        SELECTORS[name](broken, x, y[:4], 2)


@selectors
def test_select_by_name(network: Network, name: str) -> None:
    model, (x, y) = network(), images(20, 0)
    expected = SELECTORS[name](model, x, y, 7, generator=seeded())
    assert torch.equal(select(model, x, y, 7, by=name, generator=seeded()), expected)


def test_select_defaults_to_margin(network: Network) -> None:
    model, (x, y) = network(), images(20, 0)
    assert torch.equal(select(model, x, y, 7), SELECTORS["margin"](model, x, y, 7))


def test_unknown_criterion_is_refused(broken: nn.Module) -> None:
    with pytest.raises(ValueError, match=r"^select: unknown criterion 'marjin'; choose one of random, margin, "):
        select(broken, *images(5, 0), 2, by="marjin")


def test_every_list_of_criteria_is_the_same() -> None:
    """`arms` reads the table from its text and does not import torch."""
    assert arms.CRITERIA == selection.CRITERIA
    assert list(SELECTORS) == list(SCORES) == list(selection.CRITERIA)
    for name, (_, passes, of_logits) in selection.CRITERIA.items():
        assert hasattr(SCORES[name], "function") == of_logits
        assert passes == 1 or not of_logits


# ---- the package's own names


def test_package_exports() -> None:
    assert (seladv.pgd, seladv.select, seladv.SELECTORS) == (attack.pgd, select, SELECTORS)
    with pytest.raises(AttributeError, match=r"^module 'seladv' has no attribute 'pdg'$"):
        _ = seladv.pdg


@pytest.mark.parametrize("module", ["seladv", "seladv.study.check"])
def test_import_without_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@selectors
def test_smaller_k_is_a_prefix(network: Network, name: str) -> None:
    few, more = (SELECTORS[name](network(), *images(20, 0), k, generator=seeded()) for k in (5, 9))
    assert torch.equal(few, more[:5])


@selectors
def test_mode_does_not_matter(network: Network, name: str) -> None:
    training, evaluating = (
        SELECTORS[name](network().train(mode), *images(20, 0), 7, generator=seeded()) for mode in (True, False)
    )
    assert torch.equal(training, evaluating)


@pytest.mark.parametrize("seed", range(5))
def test_margin_takes_the_closest(network: Network, seed: int) -> None:
    model, (x, y) = network(seed).eval(), images(30, seed)
    margins = []
    for index, logits in enumerate(model(x).tolist()):
        second, first = sorted(logits)[-2:]
        margins.append((first - second, index))
    closest = [index for _, index in sorted(margins)]
    for k in (1, 7, 30):
        assert SELECTORS["margin"](model, x, y, k).tolist() == closest[:k]


def test_margin_ignores_classes(network: Network) -> None:
    x, y = images(20, 0)
    first, other = (SELECTORS["margin"](network(), x, classes, 7) for classes in (y, (y + 1) % 10))
    assert torch.equal(first, other)


def test_random_is_uniform(broken: nn.Module) -> None:
    count, k, draws = 24, 6, 2000
    generator, (x, y) = seeded(), images(count, 0)
    taken = torch.zeros(count)
    for _ in range(draws):
        taken[SELECTORS["random"](broken, x, y, k, generator=generator)] += 1
    share = k / count
    spread = (draws * share * (1 - share)) ** 0.5  # of a binomial count
    assert ((taken - draws * share).abs() < 5 * spread).all()


def test_random_depends_on_its_generator(broken: nn.Module, network: Network) -> None:
    def draw(model: nn.Module, content: int, seed: int) -> list[int]:
        torch.manual_seed(content)
        generator = seeded(seed)
        return SELECTORS["random"](model, *images(24, content), 12, generator=generator).tolist()

    assert draw(broken, content=0, seed=3) == draw(network(), content=1, seed=3)
    assert draw(broken, content=0, seed=3) != draw(broken, content=0, seed=4)


class Logits(nn.Module):
    """The identity: its logits [B, classes] are its input."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(4, 4, bias=False)
        nn.init.eye_(self.last.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(x)


def draw_logits(count: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    draw = seeded(seed)
    return 3 * torch.randn(count, 4, generator=draw), torch.randint(4, (count,), generator=draw)


def softmax(logits: list[float]) -> list[float]:
    powers = [math.exp(z) for z in logits]
    return [power / sum(powers) for power in powers]


def errors(logits: Tensor, y: Tensor) -> list[list[float]]:
    """Softmax − one-hot, without torch."""
    return [
        [p - (c == label) for c, p in enumerate(softmax(z))]
        for z, label in zip(logits.tolist(), y.tolist(), strict=True)
    ]


def scores(name: str, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        return SCORES[name](model, x, y, None)


def test_el2n() -> None:
    x, y = draw_logits(20)
    expected = [math.hypot(*error) for error in errors(x, y)]
    assert scores("el2n", Logits(), x, y).tolist() == pytest.approx(expected, abs=1e-6)


def test_gradmatch_logit() -> None:
    x, y = draw_logits(20)
    found = errors(x, y)
    mean = [sum(column) / len(found) for column in zip(*found, strict=True)]
    expected = [sum(map(math.prod, zip(e, mean, strict=True))) / math.hypot(*e) / math.hypot(*mean) for e in found]
    assert scores("gradmatch-logit", Logits(), x, y).tolist() == pytest.approx(expected, abs=1e-5)


def test_easy_reverses_margin(network: Network) -> None:
    model, (x, y) = network().eval(), images(30, 0)
    assert torch.equal(scores("easy", model, x, y), -scores("margin", model, x, y))
    order = (SELECTORS[name](model, x, y, 30).tolist() for name in ("easy", "margin"))
    assert next(order) == next(order)[::-1]


@pytest.mark.parametrize("seed", range(3))
def test_gradmatch_and_graddot(network: Network, seed: int) -> None:
    model, (x, y) = network(seed).double().eval(), images(12, seed)
    x = x.double()

    def loss(weights: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        return cross_entropy(functional_call(model, weights, image[None]), label[None])

    weights = {name: weight.detach() for name, weight in model.named_parameters()}
    gradients = torch.cat([g.flatten(1) for g in vmap(grad(loss), (None, 0, 0))(weights, x, y).values()], dim=1)
    dots = gradients @ gradients.mean(dim=0)
    cosines = dots / gradients.norm(dim=1) / gradients.mean(dim=0).norm()
    torch.testing.assert_close(scores("graddot", model, x, y), dots, atol=1e-8, rtol=1e-8)
    torch.testing.assert_close(scores("gradmatch", model, x, y), cosines, atol=1e-8, rtol=0)
    assert SELECTORS["gradmatch"](model, x, y, 5).tolist() == cosines.topk(5).indices.tolist()
    assert SELECTORS["graddot"](model, x, y, 5).tolist() == dots.topk(5).indices.tolist()


def true_margin(logits: list[float], label: int) -> float:
    return abs(logits[label] - max(z for c, z in enumerate(logits) if c != label))


@pytest.mark.parametrize("name", ["margin-sampled", "el2n-sampled"])
def test_sampling_follows_weights(name: str) -> None:
    count, k, draws = 8, 3, 6000
    x, y = draw_logits(count)
    if name == "el2n-sampled":
        weights = [math.hypot(*error) for error in errors(x, y)]
    else:
        weights = [1 / true_margin(z, label) for z, label in zip(x.tolist(), y.tolist(), strict=True)]
    assert max(weights) > 2 * min(weights)  # a uniform draw would not pass
    generator = seeded(1)
    first, taken = torch.zeros(count), torch.zeros(count)
    for _ in range(draws):
        chosen = SELECTORS[name](Logits(), x, y, k, generator=generator)
        first[chosen[0]] += 1
        taken[chosen] += 1
    expected = torch.tensor(weights) / sum(weights)
    spread = (draws * expected * (1 - expected)).sqrt()
    assert ((first - draws * expected).abs() < 5 * spread).all()  # the first one is drawn by weight alone
    many = torch.multinomial(expected.expand(draws, -1), k, generator=seeded(2))
    reference = many.flatten().bincount(minlength=count)
    share = (taken + reference) / (2 * draws)
    assert ((taken - reference).abs() < 5 * (2 * draws * share * (1 - share)).sqrt()).all()


def test_infinite_and_zero_weights() -> None:
    log_weights = torch.tensor([0.0, math.inf, -math.inf, 1.0])
    generator = seeded()
    for _ in range(200):
        order = drawn(log_weights, generator)
        assert not order.isnan().any()
        assert order.argmax() == 1
        assert order.argmin() == 2


@pytest.mark.parametrize("value", [0.0, 1 - 2**-24])
def test_ends_of_the_draw_are_finite(monkeypatch: pytest.MonkeyPatch, value: float) -> None:
    monkeypatch.setattr(torch, "rand", lambda count, **_: torch.full((count,), value))
    assert drawn(torch.zeros(3), None).isfinite().all()


def test_boundary_sample_is_drawn_first() -> None:
    x, y = torch.tensor([[1.0, 0, 0, 0], [1, 1, 0, 0], [0, 3, 0, 0]]), torch.tensor([0, 1, 1])
    generator = seeded()
    assert {SELECTORS["margin-sampled"](Logits(), x, y, 1, generator=generator).item() for _ in range(50)} == {1}


@selectors
@pytest.mark.parametrize("value", [0.0, math.nan, math.inf, 1e30])
def test_ties_and_broken_logits(name: str, value: float) -> None:
    x, y = torch.full((6, 4), value), torch.tensor([0, 1, 2, 3, 0, 1])
    chosen = SELECTORS[name](Logits(), x, y, 3, generator=seeded())
    assert chosen.unique().shape == (3,)
