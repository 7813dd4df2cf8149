"""The evaluation of a finished network."""

import copy
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from seladv.attack import pgd
from seladv.data.images import Images, stream
from seladv.evaluation import battery
from seladv.evaluation.evaluate import checkpoints, evaluate
from seladv.evaluation.outcomes import unpack
from seladv.study import params
from seladv.study.places import StudyError
from seladv.study.protocol import Protocol
from seladv.training.monitor import correct, percent


@pytest.fixture
def protocol(root: Path) -> Protocol:
    study = params.load(root / "params.yaml", "digits")
    counts = {"examples": 30, "strong": 8, "fgsm": 30, "noise": 24, "square": 8, "autoattack": 0, "curves": 8}
    less = {**counts, "transfer": 8, "steps": 3, "queries": 20}
    return study.model_copy(update={"evaluate": study.evaluate.model_copy(update=less)})


def changed(protocol: Protocol, **settings: Any) -> Protocol:
    return protocol.model_copy(update={"evaluate": protocol.evaluate.model_copy(update=settings)})


def untimed(result: dict[str, Any]) -> dict[str, Any]:
    attacks = {name: {**entry, "seconds": 0} for name, entry in result["attacks"].items()}
    return {**result, "attacks": attacks, "evaluation": {**result["evaluation"], "seconds": 0}}


def test_attacks_lower_accuracy(trained: nn.Module, digits: dict[str, Images], protocol: Protocol) -> None:
    result = evaluate(trained, digits["test"], protocol, seed=0)
    assert 100 >= result["clean"] > result["robust"] >= 0


def test_repeatable(trained: nn.Module, digits: dict[str, Images], protocol: Protocol) -> None:
    first = evaluate(trained, digits["test"], protocol, seed=0)
    assert json.loads(json.dumps(first, allow_nan=False)) == first
    torch.rand(5)
    assert untimed(evaluate(trained, digits["test"], protocol, seed=0)) == untimed(first)


def test_first_examples(trained: nn.Module, digits: dict[str, Images], protocol: Protocol) -> None:
    mislabelled = digits["test"].labels.clone()
    mislabelled[30:] += 1
    other = Images(digits["test"].images, mislabelled)
    first, again = (evaluate(trained, test, protocol, seed=0) for test in (digits["test"], other))
    assert untimed(first) == untimed(again)


def test_wrong_images_stay_wrong(
    trained: nn.Module, digits: dict[str, Images], protocol: Protocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    with torch.no_grad():
        wrong = (trained(digits["test"].batch(torch.arange(40))[0]).argmax(dim=1) + 1) % 10
    monkeypatch.setattr("seladv.evaluation.attacks.pgd", lambda model, x, y, **settings: 1 - x)
    helped = correct(trained, Images(255 - digits["test"].images, wrong))
    assert helped.any()  # the stand-in for an attack makes some of them right
    result = evaluate(trained, Images(digits["test"].images, wrong), protocol, seed=0)
    assert (result["clean"], result["robust"]) == (0, 0)


@pytest.mark.parametrize("batch_size", [1, 7, 40, 250])
def test_batch_size(trained: nn.Module, digits: dict[str, Images], batch_size: int) -> None:
    assert torch.equal(correct(trained, digits["test"], batch_size=batch_size), correct(trained, digits["test"]))


def test_percent() -> None:
    assert percent(torch.tensor([True, False, False, False])) == 25


def test_pgd_of_the_paper(trained: nn.Module, digits: dict[str, Images], protocol: Protocol) -> None:
    # A large ball and a small step: the random start decides which images are lost.
    random = changed(protocol, steps=1, step_size=0.01).model_copy(update={"eps": 0.5})
    data, generator = Images(*(part[:30] for part in digits["test"])), stream(5, "evaluation")

    def attack(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return pgd(model, x, y, eps=0.5, step_size=0.01, steps=1, generator=generator)

    expected = correct(trained, data) & correct(trained, data, attack=attack)
    result = evaluate(trained, digits["test"], random, seed=5)
    assert result["robust"] == result["attacks"]["pgd"]["robust"] == percent(expected)
    assert torch.equal(unpack(result["attacks"]["pgd"]["outcomes"], 30), expected)


def test_outcomes(trained: nn.Module, digits: dict[str, Images], protocol: Protocol) -> None:
    result = evaluate(trained, digits["test"], protocol, seed=0)
    assert list(result["attacks"]) == ["clean", "pgd", "pgd-strong", "square", "fgsm", "noise"]
    counts = {"clean": 30, "pgd": 30, "pgd-strong": 8, "square": 8, "fgsm": 30, "noise": 24}
    hits = {name: unpack(entry["outcomes"], counts[name]) for name, entry in result["attacks"].items()}
    for name, entry in result["attacks"].items():
        assert entry["examples"] == counts[name]
        assert entry["robust"] == percent(hits[name])
        assert not (hits[name] & ~hits["clean"][: counts[name]]).any()
    worst = result["worst_case"]
    assert worst["examples"] == 8
    assert worst["attacks"] == list(hits)
    assert unpack(worst["outcomes"], 8).tolist() == [all(each[i] for each in hits.values()) for i in range(8)]
    assert worst["robust"] == percent(unpack(worst["outcomes"], 8))
    assert result["clean"] == percent(hits["clean"])


def test_autoattack_seeds(
    trained: nn.Module, digits: dict[str, Images], protocol: Protocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(battery, "autoattack", partial(battery.autoattack, queries=500))  # to save time
    asked = changed(protocol, autoattack=4, autoattack_seeds=[1])
    assert "autoattack" not in evaluate(trained, digits["test"], asked, seed=0)["attacks"]
    result = evaluate(trained, digits["test"], asked, seed=1)
    entry = result["attacks"]["autoattack"]
    assert (entry["settings"]["version"], entry["settings"]["seed"], entry["examples"]) == ("standard", 1, 4)
    assert result["worst_case"]["examples"] == 4
    assert not (unpack(result["worst_case"]["outcomes"], 4) & ~unpack(entry["outcomes"], 4)).any()


def test_worst_case_of_few_squares(trained: nn.Module, digits: dict[str, Images], protocol: Protocol) -> None:
    result = evaluate(trained, digits["test"], changed(protocol, square=3), seed=0)
    assert result["worst_case"]["examples"] == 8  # those of the long PGD, as AutoAttack does not run
    worst, square, strong = (
        unpack(entry["outcomes"], n)
        for entry, n in (
            (result["worst_case"], 8),
            (result["attacks"]["square"], 3),
            (result["attacks"]["pgd-strong"], 8),
        )
    )
    assert not (worst[:3] & ~square).any()
    assert not (worst & ~strong).any()


def test_resume(
    trained: nn.Module, digits: dict[str, Images], protocol: Protocol, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = tmp_path / "state" / "attacks.json"
    whole = evaluate(trained, digits["test"], protocol, seed=0)
    started: list[str] = []

    def watched(name: str, attack: Callable[[battery.Case], battery.Outcome]) -> Callable[..., battery.Outcome]:
        def run(case: battery.Case) -> battery.Outcome:
            started.append(name)
            if name == "square" and started.count(name) == 1:
                raise KeyboardInterrupt
            return attack(case)

        return run

    watching = {name: (setting, watched(name, attack)) for name, (setting, attack) in battery.ATTACKS.items()}
    monkeypatch.setattr(battery, "ATTACKS", watching)
    with pytest.raises(KeyboardInterrupt):
        evaluate(trained, digits["test"], protocol, seed=0, saved=saved)
    resumed = evaluate(trained, digits["test"], protocol, seed=0, saved=saved)
    assert started == ["clean", "pgd", "pgd-strong", "square", "square", "fgsm", "noise"]
    assert untimed(resumed) == untimed(whole)


@pytest.mark.parametrize("name", ["examples", "strong", "noise", "curves"])
def test_too_few_test_images(trained: nn.Module, digits: dict[str, Images], protocol: Protocol, name: str) -> None:
    with pytest.raises(StudyError, match=rf"^evaluate\.{name} = 41: the test set has 40$"):
        evaluate(trained, digits["test"], changed(protocol, **{name: 41}), seed=0)


def test_checkpoints(trained: nn.Module, digits: dict[str, Images], protocol: Protocol) -> None:
    protocol = protocol.model_copy(update={"headline": "last"})
    worse = copy.deepcopy(trained)
    with torch.no_grad():
        for weights in worse.parameters():
            weights.mul_(0.5)
    result = evaluate(worse, digits["test"], protocol, seed=0)
    given = {"clean": -1.0, "robust": -2.0}  # copied, not measured again
    networks = {"last": trained, "best": copy.deepcopy(trained), "middle": worse}
    several = checkpoints(networks, digits["test"], protocol, seed=0, headline=given)
    assert several == {
        "last": given,
        "best": given,
        "middle": {name: pytest.approx(result[name]) for name in given},
    }
