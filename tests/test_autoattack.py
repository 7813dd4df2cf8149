"""AutoAttack through its package: its strength, its randomness, and the state that it leaves behind."""

import inspect
import json
import logging
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyautoattack
import pytest
import torch
from torch import Tensor, nn

from seladv.data.images import Images
from seladv.evaluation import autoattack as module
from seladv.evaluation.autoattack import autoattack
from seladv.evaluation.outcomes import MEMBERS, survivors
from seladv.training.monitor import correct

EPS = 0.1


@pytest.fixture
def few(digits: dict[str, Images]) -> Images:
    return Images(*(part[:16] for part in digits["test"]))


def classified(few: Images, classes: int) -> tuple[nn.Module, Images]:
    """A random linear network of so many classes, and the images with the classes that it gives them."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, classes))
    return model, Images(few.images, model(few.batch(torch.arange(16))[0]).argmax(dim=1))


def only(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Some members alone, to save time."""
    monkeypatch.setattr(module, "members", lambda classes: names)


def hits(result: dict[str, Any], member: str = "square") -> Tensor:
    return survivors(result["members"][member])


def test_settings_of_standard(trained: nn.Module) -> None:
    standard = pyautoattack.AutoAttack(trained, eps=EPS, version="standard")
    assert standard.attacks_to_run == [*MEMBERS]
    assert standard.square.n_queries == inspect.signature(autoattack).parameters["queries"].default == 5000
    assert standard.apgd_targeted.n_target_classes == standard.fab.n_target_classes == 9
    assert (standard.apgd.n_restarts, standard.fab.n_restarts, standard.apgd_targeted.n_restarts) == (1, 1, 1)


def test_member_by_member_is_the_package_at_once(few: Images) -> None:
    model, data = classified(few, 10)
    whole = pyautoattack.AutoAttack(model, eps=0.05, version="standard", seed=0)
    whole.square.n_queries = 50
    x, y = data.batch(torch.arange(16))
    _, predicted = whole.run_standard_evaluation(x.contiguous(), y)
    result = autoattack(model, data, eps=0.05, seed=0, queries=50)
    assert torch.equal(survivors(result), predicted == y)
    assert 0 < survivors(result).sum() < 16
    assert list(result["members"]) == [*MEMBERS]
    for earlier, later in pairwise(MEMBERS):  # cumulative
        assert not (hits(result, later) & ~hits(result, earlier)).any()
    assert torch.equal(hits(result), survivors(result))
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_resumes_with_the_member_that_was_killed(few: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = classified(few, 4)
    saved, started = tmp_path / "state" / "members.json", list[str]()
    whole = autoattack(model, data, eps=EPS, seed=0, queries=50)
    run = pyautoattack.AutoAttack.run_standard_evaluation

    def deadly(self: pyautoattack.AutoAttack, *images: Tensor) -> Any:
        (name,) = self.attacks_to_run
        started.append(name)
        if name == "fab-t" and started.count(name) == 1:
            raise KeyboardInterrupt
        return run(self, *images)

    monkeypatch.setattr(pyautoattack.AutoAttack, "run_standard_evaluation", deadly)
    with pytest.raises(KeyboardInterrupt):
        autoattack(model, data, eps=EPS, seed=0, queries=50, saved=saved)
    resumed = autoattack(model, data, eps=EPS, seed=0, queries=50, saved=saved)
    assert started == ["apgd-ce", "apgd-t", "fab-t", "fab-t", "square"]
    for result in (whole, resumed):
        result["members"] = {name: member | {"seconds": 0} for name, member in result["members"].items()}
    assert resumed == whole


@pytest.mark.parametrize("classes", [2, 3, 4, 8])
def test_few_classes(few: Images, classes: int) -> None:
    model, data = classified(few, classes)
    result = autoattack(model, data, eps=0.05, seed=0, queries=20)
    assert list(result["members"]) == [name for name in MEMBERS if classes >= 4 or name != "apgd-t"]
    assert result["left_out"] == (["apgd-t"] if classes < 4 else [])
    assert not [line for line in result["warnings"] if "class" in line]
    assert survivors(result).sum() < 16


def test_nothing_to_attack(trained: nn.Module, few: Images) -> None:
    wrong = Images(few.images, (trained(few.batch(torch.arange(16))[0]).argmax(dim=1) + 1) % 10)
    result = autoattack(trained, wrong, eps=EPS, seed=0)
    assert [member["robust"] for member in result["members"].values()] == [0, 0, 0, 0]


def test_global_randomness_is_left_alone(trained: nn.Module, few: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, "square")
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    autoattack(trained, few, eps=EPS, seed=0, queries=5)
    assert torch.equal(torch.rand(3), expected)


def test_leaves_nothing_behind(
    trained: nn.Module, few: Images, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    only(monkeypatch, "apgd-ce", "square")
    trained.train()
    logger = logging.getLogger("auto-attack")
    before = (list(logger.handlers), logger.level, logger.propagate)

    def trace(*_: object) -> None: ...

    usual = sys.gettrace()
    sys.settrace(trace)
    try:
        autoattack(trained, Images(*(part[:4] for part in few)), eps=EPS, seed=0, queries=5)
        assert sys.gettrace() is trace
    finally:
        sys.settrace(usual)
    assert capfd.readouterr().err == ""
    assert trained.training
    assert (list(logger.handlers), logger.level, logger.propagate) == before


def test_warnings(trained: nn.Module, few: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, "apgd-ce", "square")

    class Noisy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return trained(x + 0.05 * torch.randn_like(x))

    warnings = autoattack(Noisy(), few, eps=EPS, seed=0, queries=5)["warnings"]
    assert any("randomized" in line for line in warnings)
    assert len(warnings) == len(set(warnings))
    assert autoattack(trained, few, eps=EPS, seed=0, queries=5)["warnings"] == []


@pytest.mark.parametrize("change", [float("nan"), EPS + 0.01, -2.0])
def test_invalid_examples(trained: nn.Module, few: Images, monkeypatch: pytest.MonkeyPatch, change: float) -> None:
    clean = correct(trained, few)

    def run(self: object, x: Tensor, y: Tensor, **_: object) -> tuple[Tensor, Tensor]:
        return x + change, y + 1  # claims that nothing is right any more

    monkeypatch.setattr(pyautoattack.AutoAttack, "run_standard_evaluation", run)
    assert torch.equal(survivors(autoattack(trained, few, eps=EPS, seed=0)), clean)


def test_colour(few: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, "apgd-ce", "square")
    colour = Images(few.images.repeat(1, 3, 1, 1), few.labels)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
    labels = model(colour.batch(torch.arange(16))[0]).argmax(dim=1)
    left = survivors(autoattack(model, Images(colour.images, labels), eps=EPS, seed=0, queries=5))
    assert left.shape == (16,)
    assert not left.all()
