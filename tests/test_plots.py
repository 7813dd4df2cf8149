"""The figures of robust accuracy against cost."""

from typing import Any

import pytest

from seladv.report import plots


def record(robust: list[float], passes: int) -> dict[str, Any]:
    """A training record whose epochs cost `passes` in each of the three phases that count, and more in the monitor."""
    phases = {
        phase: {"forward": passes, "input_grad": 0, "weight_grad": 0} for phase in ("scoring", "attack", "update")
    }
    phases["monitor"] = {"forward": 10**6, "input_grad": 0, "weight_grad": 0}
    same = {"loss": 1.0, "heldout_clean": 90.0, "passes": phases}
    return {"history": [{"epoch": n, "heldout_robust": value, **same} for n, value in enumerate(robust, 1)]}


def test_course() -> None:
    """Passes add up; those of the monitor are left out."""
    assert plots.course(record([10.0, 20.0, 25.0], 4)) == [(12, 10.0), (24, 20.0), (36, 25.0)]


def test_lines_in_units_of_full() -> None:
    runs = {
        "clean": [record([0.0, 0.0], 1)],
        "full": [record([10.0, 30.0], 4), record([20.0, 40.0], 4)],
        "margin-50": [record([15.0, 35.0], 2)],
    }
    (axis,) = plots.robust_against_budget(runs).axes
    lines = {str(line.get_label()): line.get_xydata().tolist() for line in axis.lines}  # type: ignore[union-attr]
    assert lines == {"full": [[0.5, 15.0], [1.0, 35.0]], "margin-50": [[0.25, 15.0], [0.5, 35.0]]}
    assert "÷ all of full's" in axis.get_xlabel()
    colours = {line.get_label(): line.get_color() for line in axis.lines}
    others = {line.get_label(): line.get_color() for line in plots.training_curves(runs).axes[0].lines}
    assert {arm: others[arm] for arm in colours} == colours, "an arm has one colour in every figure"


@pytest.mark.parametrize("arms", [["clean"], ["margin-50"], [f"margin-{n}" for n in range(1, 26)]])
def test_any_plan(arms: list[str]) -> None:
    (axis,) = plots.robust_against_budget({arm: [record([1.0, 2.0], 3)] for arm in arms}).axes
    looks = {(line.get_color(), line.get_linestyle()) for line in axis.lines}
    assert len(looks) == len([arm for arm in arms if arm != "clean"])
