"""Robust accuracy against eps and against steps."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from seladv.data.images import Images
from seladv.evaluation import curves
from seladv.study import params
from seladv.study.protocol import Protocol
from seladv.training.monitor import correct, percent


@pytest.fixture(scope="module")
def protocol(root: Path) -> Protocol:
    return params.load(root / "params.yaml", "digits")


@pytest.mark.parametrize(
    ("steps", "counts"),
    [(1, [1, 2]), (3, [1, 2, 3, 5, 6]), (10, [1, 2, 5, 10, 20]), (40, [1, 2, 5, 10, 20, 40, 80]),
     (50, [1, 2, 5, 10, 20, 40, 50, 80, 100])],
)  # fmt: skip
def test_step_counts(steps: int, counts: list[int]) -> None:
    assert curves.step_counts(steps) == counts


def test_against_eps(trained: nn.Module, digits: dict[str, Images], protocol: Protocol) -> None:
    clean = correct(trained, digits["test"])
    curve = curves.against_eps(trained, digits["test"], clean, protocol, seed=0)
    eps, robust = zip(*curve, strict=True)
    assert curve[0] == [0, percent(clean)]
    assert list(eps) == sorted(set(eps))
    assert protocol.eps in eps
    assert robust[-1] == 0
    assert all(later <= earlier + 2.5 for earlier, later in pairwise(robust))  # one image of 40


def test_against_eps_without_success(digits: dict[str, Images], protocol: Protocol) -> None:
    class Stubborn(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.eye(10)[0] + x.flatten(1) @ torch.zeros(64, 10)

    data = Images(digits["test"].images, torch.zeros_like(digits["test"].labels))
    curve = curves.against_eps(Stubborn(), data, torch.ones(40, dtype=torch.bool), protocol, seed=0)
    assert curve[-1] == [1.0, 100.0]


def test_points_are_independent(trained: nn.Module, digits: dict[str, Images], protocol: Protocol) -> None:
    clean = correct(trained, digits["test"])
    whole = dict(curves.against_steps(trained, digits["test"], clean, protocol, seed=0))
    alone = curves.robust(trained, digits["test"], clean, eps=protocol.eps, step_size=0.03, steps=5, seed=0)
    assert whole[5] == alone
