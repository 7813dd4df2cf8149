"""How a finished network is judged."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from seladv import params
from seladv.accuracy import correct, percent
from seladv.data import Images
from seladv.evaluate import evaluate
from seladv.params import Protocol


@pytest.fixture
def protocol(root: Path) -> Protocol:
    study = params.load(root / "params.yaml", "digits")
    return study.model_copy(update={"evaluate": study.evaluate.model_copy(update={"examples": 30, "steps": 3})})


def untimed(result: dict[str, Any]) -> dict[str, Any]:
    return {**result, "evaluation": {**result["evaluation"], "seconds": 0}}


def test_an_attacked_network_is_right_less_often(
    trained: nn.Module, digits: dict[str, Images], protocol: Protocol
) -> None:
    result = evaluate(trained, digits["test"], protocol, seed=0)
    assert 100 >= result["clean"] > result["robust"] >= 0


def test_the_verdict_depends_on_network_images_protocol_and_seed_alone(
    trained: nn.Module, digits: dict[str, Images], protocol: Protocol
) -> None:
    first = evaluate(trained, digits["test"], protocol, seed=0)
    torch.rand(5)
    assert untimed(evaluate(trained, digits["test"], protocol, seed=0)) == untimed(first)


def test_only_the_first_examples_count(trained: nn.Module, digits: dict[str, Images], protocol: Protocol) -> None:
    mislabelled = digits["test"].labels.clone()
    mislabelled[30:] += 1
    other = Images(digits["test"].images, mislabelled)
    first, again = (evaluate(trained, test, protocol, seed=0) for test in (digits["test"], other))
    assert untimed(first) == untimed(again)


def test_an_image_that_only_the_attack_makes_right_is_not_robust(
    trained: nn.Module, digits: dict[str, Images], protocol: Protocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    with torch.no_grad():
        wrong = (trained(digits["test"].batch(torch.arange(40))[0]).argmax(dim=1) + 1) % 10
    monkeypatch.setattr("seladv.evaluate.pgd", lambda model, x, y, **settings: 1 - x)
    helped = correct(trained, Images(255 - digits["test"].images, wrong))
    assert helped.any()  # the stand-in for an attack does make some right
    result = evaluate(trained, Images(digits["test"].images, wrong), protocol, seed=0)
    assert (result["clean"], result["robust"]) == (0, 0)


def test_more_examples_than_there_are_is_refused(
    trained: nn.Module, digits: dict[str, Images], protocol: Protocol
) -> None:
    few = Images(*(part[:29] for part in digits["test"]))
    with pytest.raises(ValueError, match=r"^evaluate\.examples = 30: the test set has 29$"):
        evaluate(trained, few, protocol, seed=0)


@pytest.mark.parametrize("batch_size", [1, 7, 40, 250])
def test_the_batch_size_does_not_change_the_verdict(
    trained: nn.Module, digits: dict[str, Images], batch_size: int
) -> None:
    assert torch.equal(correct(trained, digits["test"], batch_size=batch_size), correct(trained, digits["test"]))


def test_percent_is_the_share_of_the_true_ones() -> None:
    assert percent(torch.tensor([True, False, False, False])) == 25
