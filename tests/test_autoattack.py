"""AutoAttack through its package: its strength, its randomness, and the state that it leaves behind."""

import logging
import sys

import pyautoattack
import pytest
import torch
from torch import Tensor, nn

from seladv.data.images import Images
from seladv.evaluation.attacks import pgd_attack
from seladv.evaluation.autoattack import MEMBERS, QUERIES, autoattack
from seladv.training.monitor import correct

EPS = 0.1


@pytest.fixture
def few(digits: dict[str, Images]) -> Images:
    return Images(*(part[:16] for part in digits["test"]))


def test_members_as_in_standard(trained: nn.Module) -> None:
    standard = pyautoattack.AutoAttack(trained, eps=EPS, version="standard")
    assert tuple(standard.attacks_to_run) == MEMBERS
    assert standard.square.n_queries == QUERIES
    assert (standard.apgd.n_restarts, standard.fab.n_restarts, standard.apgd_targeted.n_restarts) == (1, 1, 1)


def test_no_weaker_than_pgd(trained: nn.Module, few: Images) -> None:
    clean = correct(trained, few)
    pgd = clean & correct(
        trained, few, attack=pgd_attack(eps=EPS, step_size=0.02, steps=20, generator=torch.Generator().manual_seed(0))
    )
    hits = autoattack(trained, few, eps=EPS, seed=0, members=("apgd-ce", "apgd-t")).hits
    assert not (hits & ~clean).any()
    assert hits.sum() <= pgd.sum() < clean.sum()


def test_seed(trained: nn.Module, few: Images) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = autoattack(trained, few, eps=EPS, seed=0, members=("square",), queries=50).hits
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(autoattack(trained, few, eps=EPS, seed=0, members=("square",), queries=50).hits, first)


def test_more_queries(trained: nn.Module, few: Images) -> None:
    left = [autoattack(trained, few, eps=EPS, seed=0, members=("square",), queries=n).hits for n in (1, 30, 200)]
    assert not (left[1] & ~left[0]).any()  # the same squares in the same order
    assert not (left[2] & ~left[1]).any()
    assert left[2].sum() < left[0].sum()


def test_leaves_nothing_behind(trained: nn.Module, few: Images, capfd: pytest.CaptureFixture[str]) -> None:
    trained.train()
    logger = logging.getLogger("auto-attack")
    before = (list(logger.handlers), logger.level, logger.propagate)

    def trace(*_: object) -> None: ...

    usual = sys.gettrace()
    sys.settrace(trace)
    try:
        autoattack(trained, Images(*(part[:4] for part in few)), eps=EPS, seed=0, members=("apgd-ce", "fab-t"))
        assert sys.gettrace() is trace
    finally:
        sys.settrace(usual)
    assert capfd.readouterr() == ("", "")
    assert trained.training
    assert (list(logger.handlers), logger.level, logger.propagate) == before


def test_warnings(trained: nn.Module, few: Images) -> None:
    class Noisy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return trained(x + 0.05 * torch.randn_like(x))

    warnings = autoattack(Noisy(), few, eps=EPS, seed=0, members=("apgd-ce",)).warnings
    assert any("randomized" in line for line in warnings)
    assert autoattack(trained, few, eps=EPS, seed=0, members=("apgd-ce",)).warnings == []


@pytest.mark.parametrize("change", [float("nan"), EPS + 0.01, -2.0])
def test_invalid_examples(trained: nn.Module, few: Images, monkeypatch: pytest.MonkeyPatch, change: float) -> None:
    clean = correct(trained, few)

    def run(self: object, x: Tensor, y: Tensor, **_: object) -> tuple[Tensor, Tensor]:
        return torch.where(clean.view(-1, 1, 1, 1), x + change, x), y + 1  # claims that nothing is right any more

    monkeypatch.setattr(pyautoattack.AutoAttack, "run_standard_evaluation", run)
    assert torch.equal(autoattack(trained, few, eps=EPS, seed=0).hits, clean)


def test_colour(few: Images) -> None:
    colour = Images(few.images.repeat(1, 3, 1, 1), few.labels)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
    labels = model(colour.batch(torch.arange(16))[0]).argmax(dim=1)
    hits = autoattack(model, Images(colour.images, labels), eps=EPS, seed=0, members=("apgd-ce", "apgd-t")).hits
    assert hits.shape == (16,)
    assert not hits.all()
