"""A run that is killed and started again ends with the same result as one that is not."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from seladv.data.images import Images
from seladv.training import checkpoint, models
from seladv.training import train as module
from seladv.training.run import Run
from seladv.training.train import train, training_step

CPU = torch.device("cpu")
STEPS = 10  # two epochs of five batches

Settings = dict[str, Any]
Data = dict[str, Images]
Step = Callable[[Run, Tensor], tuple[Tensor, Tensor]]


class Killed(BaseException):
    """Replaces the end of the process."""


def dying(after: int) -> Step:
    """A training step that updates the network and then raises `Killed`, the `after`-th time."""
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
    """The run that is killed after `moment` steps and started again."""
    monkeypatch.setattr(module, "training_step", dying(after=moment))
    with pytest.raises(Killed):
        train(settings, arm=arm, seed=0, data=digits, device=CPU, saved=saved)
    monkeypatch.setattr(module, "training_step", training_step)
    return train(settings, arm=arm, seed=0, data=digits, device=CPU, saved=saved)


def equal(first: Any, second: Any) -> bool:
    """Two nested states hold the same values, bit for bit, except for their seconds."""
    if isinstance(first, Tensor):
        return first.dtype == second.dtype and torch.equal(first, second)
    if isinstance(first, dict):
        keys = [key for key in first if "seconds" not in str(key)]
        return first.keys() == second.keys() and all(equal(first[key], second[key]) for key in keys)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(equal, first, second))
    return bool(first == second)


def assert_same(run: Run, other: Run) -> None:
    assert run.state().keys() == other.state().keys()
    for name, value in run.state().items():
        assert equal(value, other.state()[name]), name


@pytest.mark.parametrize("arm", ["clean", "full", "random-50", "margin-50-stale"])
def test_a_killed_run_ends_the_same(
    settings: Settings, digits: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arm: str
) -> None:
    expected = train(settings, arm=arm, seed=0, data=digits, device=CPU)
    for moment in random.Random(arm).sample(range(1, STEPS + 1), 3):
        assert_same(resumed(settings, arm, digits, tmp_path / str(moment), monkeypatch, moment=moment), expected)


def test_optimiser_schedule_and_augmentation_resume(
    settings: Settings, digits: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings |= {"optimizer": "sgd", "momentum": 0.9, "weight_decay": 5e-4, "schedule": "one-cycle"}
    settings |= {"augment": {"crop": 1, "flip": True}, "lr": 0.01, "warmup_epochs": 1}
    arm = "margin-sampled-50-whole-warmup-frozen"
    expected = train(settings, arm=arm, seed=0, data=digits, device=CPU)
    for moment in (2, 5, 6, 9):
        assert_same(resumed(settings, arm, digits, tmp_path / str(moment), monkeypatch, moment=moment), expected)


def test_a_gradient_scaler_resumes(
    settings: Settings, digits: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fp16: the scaler counts the updates that it did not have to skip, and the count is part of the state."""
    settings |= {"precision": "fp16", "steps": 1}  # which a CPU only emulates
    start = {name: value.clone() for name, value in models.build(settings["model"], seed=0).state_dict().items()}
    expected = train(settings, arm="margin-50", seed=0, data=digits, device=CPU)
    assert expected.scaler.state_dict()["_growth_tracker"] == STEPS
    assert not equal(expected.model.state_dict(), start)
    for moment in (3, 7):
        assert_same(
            resumed(settings, "margin-50", digits, tmp_path / str(moment), monkeypatch, moment=moment), expected
        )


def test_no_saved_epoch_is_repeated(
    settings: Settings, digits: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that is killed in every second epoch of each life still finishes, one epoch a life."""
    settings |= {"epochs": 4}
    expected = train(settings, arm="random-50", seed=0, data=digits, device=CPU)
    for life in range(1, 4):
        monkeypatch.setattr(module, "training_step", dying(after=6))
        with pytest.raises(Killed):
            train(settings, arm="random-50", seed=0, data=digits, device=CPU, saved=tmp_path / "state")
        assert len(checkpoint.load_state(tmp_path / "state")["history"]) == life
    monkeypatch.setattr(module, "training_step", dying(after=6))
    run = train(settings, arm="random-50", seed=0, data=digits, device=CPU, saved=tmp_path / "state")
    assert_same(run, expected)


def test_a_finished_run_takes_no_step(
    settings: Settings, digits: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, lines = [], []
    for _ in range(2):
        options = {"saved": tmp_path / "state", "report": lines.append}
        runs.append(train(settings, arm="random-50", seed=0, data=digits, device=CPU, **options))
        monkeypatch.setattr(module, "training_step", dying(after=1))
    assert_same(*runs)
    assert lines[-1] == "resumed random-50 seed 0 after 2 epochs"


def test_a_saved_state_reads_as_it_was(settings: Settings, digits: Data, tmp_path: Path) -> None:
    run = train(settings, arm="margin-50-stale", seed=0, data=digits, device=CPU)
    checkpoint.save_state(tmp_path / "state", run.state())
    read = checkpoint.load_state(tmp_path / "state")
    assert read["history"] == run.history  # seconds included
    assert read.keys() == run.state().keys()
    assert all(equal(value, read[name]) for name, value in run.state().items())
