"""The forecast: it counts every run that is left, disturbs nothing, and refuses politely."""

from typing import Any

import pytest
import torch

from seladv import forecast
from seladv.data import Images

CPU = torch.device("cpu")


def test_hours_grow_with_epochs_and_passes(settings: dict[str, Any], digits: dict[str, Images]) -> None:
    plan = ["clean", "full", "full", "margin-50"]
    clean, full, again, margin = forecast.hours(settings, plan, arm="margin-50", data=digits, device=CPU)
    assert full == again
    assert 0 < clean < margin < full < 1
    per_sample = [forecast.passes(arm, settings) + 20 / 150 * (2 * settings["steps"] + 5) for arm in plan]
    assert [clean / full, margin / full] == pytest.approx(
        [per_sample[0] / per_sample[1], per_sample[3] / per_sample[1]]
    )


def test_no_generator_of_a_later_run_is_moved(settings: dict[str, Any], digits: dict[str, Images]) -> None:
    before = torch.get_rng_state()
    forecast.hours(settings, ["full"], arm="random-50", data=digits, device=CPU)
    assert torch.equal(torch.get_rng_state(), before)


def test_what_passes_the_limit_is_refused_with_one_line_and_what_does_not_is_told() -> None:
    line = forecast.check([1.0, 2.5], own=1.0, max_hours=4, protocol="digits")
    assert line == "digits: about 1 hours for this run, 3.5 for the 2 that are left to train"
    with pytest.raises(RuntimeError, match=r"^digits: about .*, more than digits\.max_hours = 3 [^\n]*$"):
        forecast.check([1.0, 2.5], own=1.0, max_hours=3, protocol="digits")
