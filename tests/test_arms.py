"""An arm's name, how many samples it attacks, and which."""

from fractions import Fraction
from math import floor
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from seladv.data.images import Images, stream
from seladv.selection import SELECTORS
from seladv.study.arms import Arm, parse
from seladv.training.run import Run


@pytest.mark.parametrize("criterion", SELECTORS)
def test_criterion_and_percent(criterion: str) -> None:
    for percent in range(1, 101):
        assert parse(f"{criterion}-{percent}") == Arm(criterion, percent)


def test_clean_and_full() -> None:
    assert parse("clean").count(64) == 0
    assert parse("full").count(64) == 64


@pytest.mark.parametrize(
    "name",
    ["", "margin", "margin-", "-50", "margin-0", "margin-05", "margin-101", "margin-1000", "margin-50.5", "margin--5",
     "margin-50 ", " margin-50", "margin-50\n", "margin-５０", "Margin-50", "marjin-50", "margin_50", "margin-50-50",
     "full-50", "clean-10", "full-100", "Full", "highest-50", "full-k0", "full-k", "clean-k5", "fgsm-k5", "full-stale",
     "margin-50-frozen-whole", "margin-50-whole-whole", "margin-stale-50", "random-50-stale", "gradmatch-50-stale",
     "as-coded-margin-25", "as-coded-random", "margin-50-", "full-k20-", "nfgsm-50"],
)  # fmt: skip
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(
        ValueError, match=r"^an arm is clean, full, .*random, margin, gradmatch.*1 to 100, then any of -stale.*$"
    ):
        parse(name)


@given(batch=st.integers(0, 10_000), percent=st.integers(1, 100))
def test_count_is_rounded_down(batch: int, percent: int) -> None:
    assert parse(f"margin-{percent}").count(batch) == floor(Fraction(percent, 100) * batch)


SETTINGS = {"eps": 0.3, "step_size": 0.01, "steps": 40}


@pytest.mark.parametrize(
    ("name", "expected"),
    [("full", {"eps": 0.3, "step_size": 0.01, "steps": 40}),
     ("margin-50-whole", {"eps": 0.3, "step_size": 0.01, "steps": 40}),
     ("full-k20", {"eps": 0.3, "step_size": 0.02, "steps": 20}),
     ("full-k80", {"eps": 0.3, "step_size": 0.005, "steps": 80}),
     ("fgsm", {"eps": 0.3, "step_size": 0.375, "start": 0.3, "steps": 1}),
     ("nfgsm", {"eps": 0.9, "step_size": 0.3, "start": 0.6, "steps": 1})],
)  # fmt: skip
def test_attack_of_an_arm(name: str, expected: dict[str, float]) -> None:
    assert parse(name).attack(SETTINGS) == pytest.approx(expected)


def test_bundles() -> None:
    assert parse("as-coded-margin") == parse("margin-sampled-25-whole-warmup-frozen")
    assert parse("as-coded-gradmatch") == parse("el2n-sampled-25-whole-warmup-frozen")
    assert parse("as-coded-margin") == Arm("margin-sampled", 25, ("whole", "warmup", "frozen"))
    assert parse("full-frozen") == Arm(None, 100, ("frozen",))


def copy(generator: torch.Generator) -> torch.Generator:
    return torch.Generator().set_state(generator.get_state())


def run_of(name: str, settings: dict[str, Any], digits: dict[str, Images], network: nn.Module) -> Run:
    run = Run(settings, arm=name, seed=0, data=digits, device=torch.device("cpu"))
    run.model = network
    return run


@pytest.mark.parametrize(("name", "count"), [("clean", 0), ("full", 24), ("margin-100", 24), ("gradmatch-3", 0)])
def test_all_or_none_without_scoring(
    broken: nn.Module, settings: dict[str, Any], digits: dict[str, Images], name: str, count: int
) -> None:
    index = torch.arange(24)
    chosen = run_of(name, settings, digits, broken).choose(broken, index, *digits["train"].batch(index))
    assert chosen.tolist() == list(range(count))


@pytest.mark.parametrize("criterion", SELECTORS)
def test_arm_chooses_by_its_criterion(
    trained: nn.Module, settings: dict[str, Any], digits: dict[str, Images], criterion: str
) -> None:
    index = torch.arange(24)
    x, y = digits["train"].batch(index)
    run = run_of(f"{criterion}-30", settings, digits, trained)
    expected = SELECTORS[criterion](trained, x, y, 7, generator=stream(0, "selection"))
    assert torch.equal(run.choose(run.model, index, x, y), expected)


def test_warm_up_is_random(trained: nn.Module, settings: dict[str, Any], digits: dict[str, Images]) -> None:
    index = torch.arange(24)
    x, y = digits["train"].batch(index)
    run = run_of("margin-50-warmup", settings | {"warmup_epochs": 2}, digits, trained)
    for history, criterion in (([], "random"), ([{}], "random"), ([{}, {}], "margin")):
        run.history = history
        expected = SELECTORS[criterion](trained, x, y, 12, generator=copy(run.generators["selection"]))
        assert torch.equal(run.choose(run.model, index, x, y), expected)


def test_stale_scores(broken: nn.Module, settings: dict[str, Any], digits: dict[str, Images]) -> None:
    run = run_of("margin-50-stale", settings, digits, broken)
    index = torch.tensor([3, 1, 4, 15, 9, 2])
    margins = torch.tensor([0.5, 3.0, 0.1, 2.0, 9.0, 0.7])
    run.remember(index, torch.stack([margins, torch.zeros(6)], dim=1), torch.zeros(6, dtype=torch.int64))
    assert run.choose(broken, index, *digits["train"].batch(index)).tolist() == [2, 0, 5]
    never = torch.tensor([3, 20, 4, 30])  # a sample that was never seen goes first
    assert set(run.choose(broken, never, *digits["train"].batch(never)).tolist()) == {1, 3}
