"""The verdicts as files, and the figure of robust accuracy against what was spent."""

import io
from typing import Any

import pandas as pd
import pytest

from seladv import budget, claims_report, plots
from seladv.claims import CLAIMS, VERDICTS

ROW: dict[str, Any] = {
    "claim": "C1", "says": "", "protocol": "digits", "arm": "margin-50", "against": "full", "paper": "+0.6",
    "unit": "points", "over": "seeds", "values": [1.0, 2.0], "seeds": [3, 5], "ours": 1.5, "low": -4.85312,
    "high": 7.85312, "margin": "> -1", "p": 0.0004, "p_holm": None, "examples": [0.5, 2.5], "verdict": "undecided",
    "decided_by": "lower end -4.85", "budget": {"epochs": 20, "total_passes": 374160.0, "reference_passes": 615020.0},
}  # fmt: skip
EMPTY = ROW | {"against": None, "paper": "", "values": [], "seeds": [], "ours": None, "low": None, "high": None}
EMPTY |= {"claim": "E1", "p": None, "examples": None, "verdict": "not run", "budget": None}


def test_the_csv_has_the_agreed_columns_and_reads_back() -> None:
    text = claims_report.claims_csv([ROW, EMPTY])
    assert text.splitlines()[0] == "claim,protocol,arm,paper,ours,low,high,margin,verdict"
    assert text.splitlines()[1] == "C1,digits,margin-50,+0.6,1.500,-4.853,7.853,> -1,undecided"
    back = pd.read_csv(io.StringIO(text)).set_index("claim")
    assert back.loc["E1", ["ours", "low", "high", "paper"]].isna().all()
    assert claims_report.claims_csv([]).strip() == text.splitlines()[0]


def test_the_page_says_what_was_claimed_found_and_decided() -> None:
    page = claims_report.claims_markdown([ROW, EMPTY, ROW | {"protocol": "mnist"}])
    for claim in CLAIMS:
        assert f"| {claim.id} | {claim.says} | {claim.region} |" in page
    assert page.index("## digits") < page.index("## mnist")
    assert "Verdicts on the paper's own arms: 0 supported, 0 not supported, 1 undecided, 1 not run." in page
    assert "| C1 | margin-50 | full | +0.6 | +1.50 | -4.85 to +7.85 | > -1 | **undecided** | lower end -4.85 |" in page
    evidence = "< 0.001 | – | +0.50 to +2.50 | 20 epochs, 0.374 M passes against 0.615 M | 3: +1.00, 5: +2.00 |"
    assert f"| C1 | margin-50 | full | {evidence}" in page
    assert page.count("| E1 | margin-50 |") == 1  # what was not run rests on nothing


def test_the_tally_leaves_the_control_out() -> None:
    rows = [ROW | {"verdict": verdict} for index, verdict in enumerate(VERDICTS) for _ in range(index)]
    rows += [ROW | {"arm": "random-50"}]
    assert (
        claims_report.tally(rows)
        == "Verdicts on the paper's own arms: 0 supported, 1 not supported, 2 undecided, 3 not run."
    )


def record(robust: list[float], passes: int) -> dict[str, Any]:
    """A training record whose epochs cost `passes` in each of the three phases that count, and more in the monitor."""
    phases = {
        phase: {"forward": passes, "input_grad": 0, "weight_grad": 0} for phase in ("scoring", "attack", "update")
    }
    phases["monitor"] = {"forward": 10**6, "input_grad": 0, "weight_grad": 0}
    curves = {"loss": 1.0, "heldout_clean": 90.0}
    return {
        "history": [
            {"epoch": n, "heldout_robust": value, "passes": phases, **curves} for n, value in enumerate(robust, 1)
        ]
    }


def test_what_was_spent_adds_up_and_leaves_the_monitor_out() -> None:
    assert budget.course(record([10.0, 20.0, 25.0], 4)) == [(12, 10.0), (24, 20.0), (36, 25.0)]


def test_a_line_for_each_arm_in_units_of_the_whole_of_full() -> None:
    runs = {
        "clean": [record([0.0, 0.0], 1)],
        "full": [record([10.0, 30.0], 4), record([20.0, 40.0], 4)],
        "margin-50": [record([15.0, 35.0], 2)],
    }
    (axis,) = budget.robust_against_budget(runs).axes
    lines = {str(line.get_label()): line.get_xydata().tolist() for line in axis.lines}  # type: ignore[union-attr]
    assert lines == {"full": [[0.5, 15.0], [1.0, 35.0]], "margin-50": [[0.25, 15.0], [0.5, 35.0]]}
    assert "÷ all of full's" in axis.get_xlabel()
    colours = {line.get_label(): line.get_color() for line in axis.lines}
    others = {line.get_label(): line.get_color() for line in plots.training_curves(runs).axes[0].lines}
    assert {arm: others[arm] for arm in colours} == colours, "an arm has one colour in every figure"


@pytest.mark.parametrize("arms", [["clean"], ["margin-50"], [f"margin-{n}" for n in range(1, 26)]])
def test_the_figure_stands_for_any_plan(arms: list[str]) -> None:
    (axis,) = budget.robust_against_budget({arm: [record([1.0, 2.0], 3)] for arm in arms}).axes
    looks = {(line.get_color(), line.get_linestyle()) for line in axis.lines}
    assert len(looks) == len([arm for arm in arms if arm != "clean"])
