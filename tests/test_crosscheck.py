"""Other libraries' PGD, from the same random start, agrees with ours."""

import sys
from pathlib import Path

import pytest
from torch import nn

from seladv.data import sources
from seladv.data.images import Images, split
from seladv.training.monitor import correct, percent

sys.path.append(str(Path(__file__).parents[1]))  # the benchmark is no part of the installed package

from benchmarks import crosscheck, peers

SETTINGS = {"eps": 0.15, "step_size": 0.03}


@pytest.fixture(scope="module")
def images() -> Images:
    """Many: one of them is less than 0.1 points."""
    parts = split(sources.raw("digits", root=Path("not needed"), mirror=None), holdout=100)
    return Images(parts["train_images"], parts["train_labels"])


@pytest.mark.parametrize("library", peers.ATTACKS)
def test_the_same_examples_have_the_same_outcome(trained: nn.Module, images: Images, library: str) -> None:
    if library not in peers.load():
        pytest.skip(f"{library} is not installed: `make bench-peers`")
    found = crosscheck.outcomes(trained, images, **SETTINGS, steps=10, libraries=(library,))
    robust = {name: percent(hits) for name, hits in found.items()}
    assert 0 < robust["seladv"] < percent(correct(trained, images)) - 5  # the attack does break some
    assert robust[library] == pytest.approx(robust["seladv"], abs=0.3)
    assert (found[library] != found["seladv"]).double().mean() < 0.003  # image by image, not by luck in the sum


def test_that_agreement_is_closer_than_one_step_more(trained: nn.Module, images: Images) -> None:
    robust = [
        percent(crosscheck.outcomes(trained, images, **SETTINGS, steps=steps, libraries=())["seladv"])
        for steps in (4, 5)
    ]
    assert robust[0] - robust[1] > 0.3
