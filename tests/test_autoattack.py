"""AutoAttack through its package: as strong as it should be, repeatable, quiet, and without a trace left behind."""

import logging
import sys

import pyautoattack
import pytest
import torch
from torch import Tensor, nn

from seladv.accuracy import correct
from seladv.attacks import pgd_attack
from seladv.autoattack import MEMBERS, QUERIES, autoattack
from seladv.data import Images

EPS = 0.1
FAST = ("apgd-ce", "fab-t")


@pytest.fixture
def few(digits: dict[str, Images]) -> Images:
    return Images(*(part[:16] for part in digits["test"]))


def test_the_members_are_the_standard_versions(trained: nn.Module) -> None:
    standard = pyautoattack.AutoAttack(trained, eps=EPS, version="standard")
    assert tuple(standard.attacks_to_run) == MEMBERS
    assert standard.square.n_queries == QUERIES
    assert (standard.apgd.n_restarts, standard.fab.n_restarts, standard.apgd_targeted.n_restarts) == (1, 1, 1)


def test_no_weaker_than_pgd_and_never_right_where_the_clean_image_is_not(trained: nn.Module, few: Images) -> None:
    clean = correct(trained, few)
    pgd = clean & correct(
        trained, few, attack=pgd_attack(eps=EPS, step_size=0.02, steps=20, generator=torch.Generator().manual_seed(0))
    )
    hits = autoattack(trained, few, eps=EPS, seed=0, members=("apgd-ce", "apgd-t")).hits
    assert not (hits & ~clean).any()
    assert hits.sum() <= pgd.sum() < clean.sum()


def test_the_seed_decides_and_the_global_generator_is_left_alone(trained: nn.Module, few: Images) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = autoattack(trained, few, eps=EPS, seed=0, members=("square",), queries=50).hits
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(autoattack(trained, few, eps=EPS, seed=0, members=("square",), queries=50).hits, first)


def test_square_gets_no_weaker_with_more_queries(trained: nn.Module, few: Images) -> None:
    left = [autoattack(trained, few, eps=EPS, seed=0, members=("square",), queries=n).hits for n in (1, 30, 200)]
    assert not (left[1] & ~left[0]).any()  # the same squares in the same order, and it stops where it succeeded
    assert not (left[2] & ~left[1]).any()
    assert left[2].sum() < left[0].sum()


def test_nothing_is_printed_and_the_trace_function_the_mode_and_the_logger_are_as_before(
    trained: nn.Module, few: Images, capfd: pytest.CaptureFixture[str]
) -> None:
    trained.train()
    logger = logging.getLogger("auto-attack")
    before = (list(logger.handlers), logger.level, logger.propagate)

    def trace(*_: object) -> None: ...

    usual = sys.gettrace()
    sys.settrace(trace)
    try:
        autoattack(trained, few, eps=EPS, seed=0, members=FAST)
        assert sys.gettrace() is trace
    finally:
        sys.settrace(usual)
    assert capfd.readouterr() == ("", "")
    assert trained.training
    assert (list(logger.handlers), logger.level, logger.propagate) == before


def test_what_the_package_warns_of_is_handed_on(trained: nn.Module, few: Images) -> None:
    class Noisy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return trained(x + 0.05 * torch.randn_like(x))

    warnings = autoattack(Noisy(), few, eps=EPS, seed=0, members=("apgd-ce",)).warnings
    assert any("randomized" in line for line in warnings)
    assert autoattack(trained, few, eps=EPS, seed=0, members=("apgd-ce",)).warnings == []


@pytest.mark.parametrize("change", [float("nan"), EPS + 0.01, -2.0])
def test_an_example_that_is_not_one_is_no_success(
    trained: nn.Module, few: Images, monkeypatch: pytest.MonkeyPatch, change: float
) -> None:
    clean = correct(trained, few)

    def run(self: object, x: Tensor, y: Tensor, **_: object) -> tuple[Tensor, Tensor]:
        return torch.where(clean.view(-1, 1, 1, 1), x + change, x), y + 1  # claims that nothing is right any more

    monkeypatch.setattr(pyautoattack.AutoAttack, "run_standard_evaluation", run)
    assert torch.equal(autoattack(trained, few, eps=EPS, seed=0).hits, clean)


def test_channels_last_colour_images_are_taken(few: Images) -> None:
    colour = Images(few.images.repeat(1, 3, 1, 1), few.labels)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
    labels = model(colour.batch(torch.arange(16))[0]).argmax(dim=1)
    hits = autoattack(model, Images(colour.images, labels), eps=EPS, seed=0, members=("apgd-ce", "apgd-t")).hits
    assert hits.shape == (16,)
    assert not hits.all()
