"""A run that is stopped at any moment and started again ends as if it had never been stopped."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from seladv import train as module
from seladv.data import Images
from seladv.run import Run
from seladv.state import capture
from seladv.train import train, training_step

CPU = torch.device("cpu")
STEPS = 10  # two epochs of five batches
ALWAYS, NEVER = -1.0, float("inf")  # for SAVE_EVERY: after every batch, and only when an epoch ends

Settings = dict[str, Any]
Data = dict[str, Images]
Step = Callable[[Run, Tensor], tuple[Tensor, Tensor]]


class Killed(BaseException):
    """Stands for the end of the process."""


def dying(after: int) -> Step:
    """A training step that updates the network and then dies, the `after`-th time."""
    left = iter(range(after - 1, -1, -1))

    def step(run: Run, index: Tensor) -> tuple[Tensor, Tensor]:
        result = training_step(run, index)
        if not next(left):
            raise Killed
        return result

    return step


def resumed(
    settings: Settings, arm: str, digits: Data, saved: Path, monkeypatch: pytest.MonkeyPatch, *, moment: int
) -> Run:
    """The run that dies after `moment` steps and is started again."""
    monkeypatch.setattr(module, "training_step", dying(after=moment))
    with pytest.raises(Killed):
        train(settings, arm=arm, seed=0, data=digits, device=CPU, saved=saved)
    monkeypatch.setattr(module, "training_step", training_step)
    return train(settings, arm=arm, seed=0, data=digits, device=CPU, saved=saved)


def untimed(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in line.items() if "seconds" not in key} for line in history]


def plain(value: Any) -> Any:
    """As JSON gives it back: a list for a tuple."""
    return json.loads(json.dumps(value))


def assert_same(run: Run, other: Run) -> None:
    """Same weights, optimiser, generators and counters, bit for bit; same history but for its seconds."""
    (tensors, info), (expected, expected_info) = capture(run), capture(other)
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in tensors.items())
    same = ("step", "groups", "schedule")
    assert [plain(info[key]) for key in same] == [plain(expected_info[key]) for key in same]
    assert untimed(info["history"]) == untimed(expected_info["history"])


@pytest.mark.parametrize("save_every", [ALWAYS, NEVER])
@pytest.mark.parametrize("arm", ["clean", "full", "random-50", "margin-50-stale"])
def test_a_run_that_dies_once_ends_as_if_it_had_not(
    settings: Settings, digits: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arm: str, save_every: float
) -> None:
    monkeypatch.setattr(module, "SAVE_EVERY", save_every)
    expected = train(settings, arm=arm, seed=0, data=digits, device=CPU)
    for moment in random.Random(f"{arm}{save_every}").sample(range(1, STEPS + 1), 3):
        assert_same(resumed(settings, arm, digits, tmp_path / str(moment), monkeypatch, moment=moment), expected)


def test_a_run_that_dies_in_every_second_step_still_finishes_and_repeats_no_saved_step(
    settings: Settings, digits: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SAVE_EVERY", ALWAYS)
    expected = train(settings, arm="random-50", seed=0, data=digits, device=CPU)
    lives = 0
    while True:
        lives += 1
        monkeypatch.setattr(module, "training_step", dying(after=2))
        try:
            run = train(settings, arm="random-50", seed=0, data=digits, device=CPU, saved=tmp_path / "state")
            break
        except Killed:
            assert lives <= STEPS
    assert lives == STEPS
    assert_same(run, expected)


def test_a_finished_run_is_taken_from_its_state_without_a_step(
    settings: Settings, digits: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [train(settings, arm="random-50", seed=0, data=digits, device=CPU, saved=tmp_path / "state")]
    monkeypatch.setattr(module, "training_step", dying(after=1))
    runs.append(train(settings, arm="random-50", seed=0, data=digits, device=CPU, saved=tmp_path / "state"))
    assert_same(*runs)


def test_everything_that_cifar_adds_is_resumed_as_well(
    settings: Settings, digits: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings |= {"optimizer": "sgd", "momentum": 0.9, "weight_decay": 5e-4, "schedule": "one-cycle", "ema": 0.9}
    settings |= {"augment": {"crop": 1, "flip": True}, "lr": 0.01, "warmup_epochs": 1}
    monkeypatch.setattr(module, "SAVE_EVERY", ALWAYS)
    arm = "margin-sampled-50-whole-warmup-frozen"
    expected = train(settings, arm=arm, seed=0, data=digits, device=CPU)
    for moment in (2, 5, 6, 9):
        assert_same(resumed(settings, arm, digits, tmp_path / str(moment), monkeypatch, moment=moment), expected)
