"""Timed epochs: every arm in every round, in the form that the claims read."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from seladv.data.images import Images
from seladv.report import claims, timing
from seladv.training.run import Run

CPU = torch.device("cpu")


def test_rounds_of_all_arms(
    settings: dict[str, Any], digits: dict[str, Images], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def fake_epoch(run: Run) -> float:
        seen.append(len(run.train.labels))
        return float(len(seen))

    monkeypatch.setattr(timing, "train_epoch", fake_epoch)
    monkeypatch.setattr(timing, "BATCHES", 3)
    seconds = timing.epoch_seconds(settings, ["full", "margin-50"], parts=digits, device=CPU)
    assert set(seen) == {96}  # three batches of 32, of 150 images
    whole = sorted(value * 96 / 150 for times in seconds.values() for value in times)
    counted, skipped = 2 * timing.ROUNDS, 2 * timing.WARM_UP
    assert whole == pytest.approx(range(skipped + 1, skipped + 1 + counted))
    for early, late in zip(*seconds.values(), strict=True):
        assert abs(early - late) == pytest.approx(150 / 96)  # one straight after the other
    assert len(claims.rounds({"epoch_seconds": seconds}, "margin-50", "full")) == timing.ROUNDS


@pytest.mark.parametrize("schedule", ["constant", "one-cycle"])
def test_rounds_really_train(
    settings: dict[str, Any], digits: dict[str, Images], monkeypatch: pytest.MonkeyPatch, schedule: str
) -> None:
    monkeypatch.setattr(timing, "BATCHES", 1)
    seconds = timing.epoch_seconds(settings | {"schedule": schedule}, ["margin-50"], parts=digits, device=CPU)
    assert len(seconds["margin-50"]) == timing.ROUNDS
    assert all(value > 0 for value in seconds["margin-50"])


def test_what_is_written(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Median and range of each arm, with the machine, the implementation and the batch that they hold for."""
    monkeypatch.setattr(timing.images, "load", lambda *_, **__: {})
    monkeypatch.setattr(timing, "epoch_seconds", lambda *_, **__: {"full": [4.0, 2.0, 9.0]})
    monkeypatch.setattr(timing, "describe", lambda _: {"device": "a CPU", "threads": 2})
    shutil.copy(Path(__file__).parents[1] / "params.yaml", tmp_path)
    monkeypatch.setattr(timing.places, "root", lambda: tmp_path)
    timing.main("digits")
    assert capsys.readouterr().out == "digits full: 4.00 s an epoch (2.00 to 9.00)\n"
    written = json.loads((tmp_path / "results/timing/digits.json").read_text())
    assert written["machine"]["device"] == "a CPU"
    made = {name: written[name] for name in ("protocol", "implementation", "batch_size", "epoch_seconds")}
    assert made == {
        "protocol": "digits", "implementation": "seladv", "batch_size": 64, "epoch_seconds": {"full": [4.0, 2.0, 9.0]}
    }  # fmt: skip
