"""The forecast counts every run that is left, changes no generator, and refuses with one line."""

from typing import Any

import pytest
import torch

from seladv.data.images import Images
from seladv.study.places import StudyError, duration
from seladv.training import forecast

CPU = torch.device("cpu")


def test_hours_grow_with_passes(settings: dict[str, Any], digits: dict[str, Images]) -> None:
    plan = ["clean", "full", "full", "margin-50"]
    clean, full, again, margin = forecast.hours(settings, plan, arm="margin-50", data=digits, device=CPU)
    assert full == again
    assert 0 < clean < margin < full < 1
    per_sample = [forecast.passes(arm, settings) + 20 / 150 * (2 * settings["steps"] + 5) for arm in plan]
    assert [clean / full, margin / full] == pytest.approx(
        [per_sample[0] / per_sample[1], per_sample[3] / per_sample[1]]
    )


def test_hours_grow_with_epochs(
    settings: dict[str, Any], digits: dict[str, Images], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for epochs in (2, 6):
        times = iter((0.0, 1.5))
        monkeypatch.setattr(forecast.time, "monotonic", lambda times=times: next(times))
        found += forecast.hours(settings | {"epochs": epochs}, ["full"], arm="full", data=digits, device=CPU)
    assert found[1] == pytest.approx(3 * found[0])


def test_generator_is_not_moved(settings: dict[str, Any], digits: dict[str, Images]) -> None:
    before = torch.get_rng_state()
    forecast.hours(settings, ["full"], arm="random-50", data=digits, device=CPU)
    assert torch.equal(torch.get_rng_state(), before)


def test_limit() -> None:
    line = forecast.check([1.0, 2.5], own=1.0, max_hours=4, protocol="digits")
    assert line == "digits: about 1 hours for this run, 3.5 hours for the 2 still to train"
    with pytest.raises(StudyError, match=r"^digits: about .*, more than digits\.max_hours = 3 [^\n]*$"):
        forecast.check([1.0, 2.5], own=1.0, max_hours=3, protocol="digits")


@pytest.mark.parametrize(("hours", "shown"), [(0.0006, "1 minutes"), (0.5, "30 minutes"), (25.5, "26 hours")])
def test_duration(hours: float, shown: str) -> None:
    assert duration(hours) == shown
