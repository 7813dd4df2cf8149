"""Epochs timed in turns: every arm in every round, in the form that the claims read."""

from typing import Any

import pytest
import torch

from seladv import measures, timing
from seladv.data import Images
from seladv.run import Run


def test_every_arm_is_timed_in_every_round_and_scaled_to_the_whole_epoch(
    settings: dict[str, Any], digits: dict[str, Images], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def fake_epoch(run: Run) -> None:
        seen.append(len(run.train.labels))
        run.spent["epoch_seconds"] = float(len(seen))

    monkeypatch.setattr(timing, "train_epoch", fake_epoch)
    monkeypatch.setattr(timing, "BATCHES", 3)
    arms = ["full", "margin-50"]
    seconds = timing.epoch_seconds(settings, arms, parts=digits, device=torch.device("cpu"))
    assert set(seen) == {96}  # three batches of 32, of 150 images
    whole = sorted(value * 96 / 150 for times in seconds.values() for value in times)
    assert whole == pytest.approx(range(3, 3 + 2 * timing.ROUNDS))  # the first round of both is left out
    for early, late in zip(*seconds.values(), strict=True):
        assert abs(early - late) == pytest.approx(150 / 96)  # one straight after the other
    assert len(measures.rounds({"epoch_seconds": seconds}, "margin-50", "full")) == timing.ROUNDS
