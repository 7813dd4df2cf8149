"""What the explore notebook computes: the arm's own choice, PGD's own images, honest counts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import binom
from torch import nn

from seladv import explore, params
from seladv.attack import pgd
from seladv.data import Images
from seladv.explore_networks import Found, Subject
from seladv.seeds import stream
from seladv.selection import SELECTORS

ATTACK = {"eps": 0.15, "step_size": 0.05, "steps": 4}
Make = Callable[[str], Subject]


@pytest.fixture(scope="module")
def subject(root: Path, digits: dict[str, Images], trained: nn.Module) -> Make:
    """`subject(arm)`: a trained network of the digits, as if `arm` had trained it."""

    def make(arm: str) -> Subject:
        run = Found("digits", arm, 0, root)
        study = params.load(root / "params.yaml", "digits", arm=arm).model_copy(update={"batch_size": 32})
        return Subject(run, trained.eval(), study, digits, {"history": [{"never_selected": 0.25}]})

    return make


@pytest.mark.parametrize("criterion", ["margin", "gradmatch", "random"])
def test_the_marked_samples_are_those_that_the_arm_selects(subject: Make, criterion: str) -> None:
    seen = subject(f"{criterion}-50")
    index = explore.batches(seen)[0]
    choice = explore.choose(seen, index)
    x, y = seen.data["train"].batch(index)
    chosen = SELECTORS[criterion](seen.model, x, y, 16, generator=stream(0, "selection"))
    assert choice.chosen.nonzero()[:, 0].tolist() == sorted(chosen.tolist())
    assert choice.scores[choice.chosen].min() >= choice.scores[~choice.chosen].max()
    assert choice.criterion == criterion


@pytest.mark.parametrize(("arm", "count"), [("clean", 0), ("full", 32), ("full-k3", 32), ("margin-25", 8)])
def test_an_arm_attacks_its_share(subject: Make, arm: str, count: int) -> None:
    seen = subject(arm)
    choice = explore.choose(seen, explore.batches(seen)[1])
    assert choice.chosen.sum() == count
    assert choice.criterion == "margin"


def test_the_batches_are_those_of_the_runs_first_epoch(subject: Make, digits: dict[str, Images]) -> None:
    from seladv.run import Run

    seen = subject("margin-50")
    run = Run(seen.study.training(), arm="margin-50", seed=0, data=digits, device=torch.device("cpu"))
    assert [index.tolist() for index in run.batches()] == [index.tolist() for index in explore.batches(seen)]


def follow(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> explore.Trajectory:
    return explore.trajectory(model, x, y, **ATTACK, generator=stream(3, "explore"))


def test_a_trajectory_is_pgds_own(trained: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    x, y = batch[0][:1], batch[1][:1]
    seen = follow(trained, x, y)
    assert seen.images.shape == (5, 1, 8, 8)
    for steps in range(5):
        settings: dict[str, Any] = ATTACK | {"steps": steps}
        assert torch.equal(seen.images[steps], pgd(trained, x, y, **settings, generator=stream(3, "explore"))[0])
    assert torch.equal(seen.clean, x[0])


def test_a_margin_is_negative_where_the_prediction_is_wrong(trained: nn.Module, digits: dict[str, Images]) -> None:
    right = wrong = 0
    for image in range(40):
        x, y = digits["test"].batch(torch.tensor([image]))
        seen = follow(trained, x, y)
        for margin, prediction in zip(seen.margins.tolist(), seen.predictions, strict=True):
            assert (margin > 0) == (prediction == y)
            right, wrong = right + (margin > 0), wrong + (margin < 0)
    assert right
    assert wrong


def test_a_network_is_listened_to_no_longer_than_the_attack_lasts(
    broken: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]
) -> None:
    with pytest.raises(RuntimeError, match="broken network"):
        follow(broken, batch[0][:1], batch[1][:1])
    assert not broken._forward_hooks


def test_counts_add_up_to_what_the_arm_attacks(subject: Make) -> None:
    times = explore.times_chosen(subject("margin-50"), images=100, epochs=3)
    assert len(times) == 100
    assert times.sum() == 3 * (16 + 16 + 16 + 2)  # batches of 32, 32, 32 and 4
    assert times.max() <= 3


def test_the_margin_has_habits_and_chance_has_none(subject: Make) -> None:
    def extremes(arm: str) -> int:
        times = explore.times_chosen(subject(arm), images=150, epochs=8)
        return int(((times == 0) | (times == 8)).sum())

    assert extremes("margin-50") > 75
    assert extremes("random-50") < 15  # one of 128 is expected


@pytest.mark.parametrize(("arm", "times"), [("clean", 0), ("full", 2)])
def test_arms_that_do_not_choose(subject: Make, arm: str, times: int) -> None:
    assert explore.times_chosen(subject(arm), images=1000, epochs=2).tolist() == [times] * 150


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_chance_is_binomial(share: float) -> None:
    assert explore.by_chance(share=share, epochs=7) == pytest.approx(binom.pmf(range(8), 7, share))
