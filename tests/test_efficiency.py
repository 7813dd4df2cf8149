"""What scoring takes, and robustness for all that is spent."""

from typing import Any

import pytest

from seladv import efficiency


def run(robust: float, scoring: int, attack: int, *, seconds: tuple[float, ...] = (1.0,)) -> dict[str, Any]:
    """A run whose update takes 300 passes; `seconds` of scoring in epochs of 10."""
    passes = {"scoring": {"forward": scoring}, "attack": {"forward": attack}, "update": {"forward": 300}}
    history = [{"seconds": {"scoring": value}, "epoch_seconds": 10.0} for value in seconds]
    cost = {"passes": passes, "total_passes": scoring + attack + 300}
    return {"robust": robust, "training": {"cost": cost, "history": history}}


METRICS = {
    "clean": [run(0, 0, 0)] * 2,
    "full": [run(50, 0, 700), run(60, 0, 700)],
    "full-k20": [run(50, 0, 400)] * 2,
    "margin-50": [run(40, 50, 150, seconds=(1, 9, 2)), run(60, 50, 150, seconds=(2, 4, 9))],
}


def test_shares_costs_and_robustness_are_means_over_seeds() -> None:
    full, margin = efficiency.lines(METRICS)
    assert full == ("full", 10, 0, 1, 55, 55)
    assert margin == ("margin-50", pytest.approx(30), pytest.approx(10), 0.5, 50, 100)


def test_without_full_there_is_no_ratio() -> None:
    (line,) = efficiency.lines({"margin-50": METRICS["margin-50"]})
    assert line.cost is line.efficiency is None
    assert "| margin-50 | 30.0 | 10.0 | – | 50.0 | – |" in efficiency.section({"margin-50": METRICS["margin-50"]})


def test_the_table_shows_the_lines() -> None:
    assert "| margin-50 | 30.0 | 10.0 | 0.50 | 50.0 | 100.0 |" in efficiency.section(METRICS)
