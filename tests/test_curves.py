"""The two curves: where they begin, where they end, and that their points differ in one thing only."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from seladv import curves, params
from seladv.accuracy import correct, percent
from seladv.data import Images
from seladv.params import Protocol


@pytest.fixture(scope="module")
def protocol(root: Path) -> Protocol:
    return params.load(root / "params.yaml", "digits")


@pytest.mark.parametrize(
    ("steps", "counts"),
    [(1, [1, 2]), (3, [1, 2, 3, 5, 6]), (10, [1, 2, 5, 10, 20]), (40, [1, 2, 5, 10, 20, 40, 80]),
     (50, [1, 2, 5, 10, 20, 40, 50, 80, 100])],
)  # fmt: skip
def test_steps_double_up_to_twice_the_protocols(steps: int, counts: list[int]) -> None:
    assert curves.step_counts(steps) == counts


def test_against_eps_falls_from_clean_to_nothing(
    trained: nn.Module, digits: dict[str, Images], protocol: Protocol
) -> None:
    clean = correct(trained, digits["test"])
    curve = curves.against_eps(trained, digits["test"], clean, protocol, seed=0)
    eps, robust = zip(*curve, strict=True)
    assert curve[0] == [0, percent(clean)]
    assert list(eps) == sorted(set(eps))
    assert protocol.eps in eps
    assert robust[-1] == 0
    assert all(later <= earlier + 2.5 for earlier, later in pairwise(robust))  # one image of 40


def test_against_eps_ends_at_the_whole_range_where_the_attack_fails(
    digits: dict[str, Images], protocol: Protocol
) -> None:
    class Stubborn(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.eye(10)[0] + x.flatten(1) @ torch.zeros(64, 10)

    data = Images(digits["test"].images, torch.zeros_like(digits["test"].labels))
    curve = curves.against_eps(Stubborn(), data, torch.ones(40, dtype=torch.bool), protocol, seed=0)
    assert curve[-1] == [1.0, 100.0]


def test_a_point_depends_on_its_settings_and_the_seed_alone(
    trained: nn.Module, digits: dict[str, Images], protocol: Protocol
) -> None:
    clean = correct(trained, digits["test"])
    whole = dict(curves.against_steps(trained, digits["test"], clean, protocol, seed=0))
    alone = curves.robust(trained, digits["test"], clean, eps=protocol.eps, step_size=0.03, steps=5, seed=0)
    assert whole[5] == alone
