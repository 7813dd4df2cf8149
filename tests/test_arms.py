"""An arm's name, and how many and which samples it attacks."""

from fractions import Fraction
from math import floor

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from seladv.arms import Arm, parse
from seladv.selection import SELECTORS


@pytest.mark.parametrize("criterion", SELECTORS)
def test_a_criterion_with_a_whole_percentage_is_an_arm(criterion: str) -> None:
    for percent in range(1, 101):
        assert parse(f"{criterion}-{percent}") == Arm(criterion, percent)


def test_clean_attacks_nothing_and_full_everything() -> None:
    assert parse("clean").count(64) == 0
    assert parse("full").count(64) == 64


@pytest.mark.parametrize(
    "name",
    ["", "margin", "margin-", "-50", "margin-0", "margin-05", "margin-101", "margin-1000", "margin-50.5", "margin--5",
     "margin-50 ", " margin-50", "margin-50\n", "margin-５０", "Margin-50", "marjin-50", "margin_50", "margin-50-50",
     "full-50", "clean-10", "full-100", "Full", "highest-50"],
)  # fmt: skip
def test_any_other_name_is_refused_with_one_line_that_says_what_is_allowed(name: str) -> None:
    with pytest.raises(ValueError, match=r"^an arm is clean, full or .*random, margin, gradmatch.*1 to 100$"):
        parse(name)


@given(batch=st.integers(0, 10_000), percent=st.integers(1, 100))
def test_the_count_is_the_share_of_the_batch_rounded_down(batch: int, percent: int) -> None:
    assert parse(f"margin-{percent}").count(batch) == floor(Fraction(percent, 100) * batch)


@pytest.mark.parametrize(("name", "count"), [("clean", 0), ("full", 24), ("margin-100", 24), ("gradmatch-3", 0)])
def test_all_or_none_are_chosen_without_running_the_network(
    broken: nn.Module, batch: tuple[Tensor, Tensor], name: str, count: int
) -> None:
    assert parse(name).choose(broken, *batch, None).tolist() == list(range(count))


@pytest.mark.parametrize("criterion", SELECTORS)
def test_an_arm_chooses_what_its_selector_chooses(
    trained: nn.Module, batch: tuple[Tensor, Tensor], criterion: str
) -> None:
    chosen, expected = (
        choose(torch.Generator().manual_seed(0))
        for choose in (
            lambda generator: parse(f"{criterion}-30").choose(trained, *batch, generator),
            lambda generator: SELECTORS[criterion](trained, *batch, 7, generator=generator),
        )
    )
    assert torch.equal(chosen, expected)
