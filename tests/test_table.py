"""The results table: of the runs that params.yaml asks for, paired by seed."""

import io
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from seladv.evaluation.outcomes import pack, unpack
from seladv.report import table
from seladv.report.stats import mean_and_half_width
from seladv.report.table import Metrics, ResultsError
from seladv.study import params
from seladv.study.protocol import Protocol

ROOT = Path(__file__).parents[1]
COLUMNS = (
    "arm,seeds,clean,clean_ci,robust,robust_ci,robust_minus_full,robust_minus_full_ci,"
    "attack_cost,total_cost,epoch_time,paper_clean,paper_robust,"  # the contract's thirteen
    "robust_last,robust_best,autoattack,worst_case,marks"
)
ROBUST = {"clean": [10.0, 12.0], "full": [80.0, 90.0], "margin-50": [82.0, 91.0]}
PASSES = {"clean": 0, "full": 1000, "margin-50": 500}


def protocol(**changes: Any) -> Protocol:
    asked = params.load(ROOT / "params.yaml", "digits").model_dump()
    asked |= {"arms": list(ROBUST), "seeds": [3, 5], "paper": {"full": {"clean": 96.2, "robust": 84.5}}}
    return Protocol.model_validate({**asked, **changes})


def metrics(arm: str, seed: int, robust: float) -> dict[str, Any]:
    """A run's metrics: three epochs, the second of them slow."""
    cost = {"attack_passes": PASSES[arm], "total_passes": PASSES[arm] + 300}
    passes = {phase: {"forward": 10, "input_grad": 5, "weight_grad": 0} for phase in ("scoring", "attack", "update")}
    passes["monitor"] = {"forward": 10**6, "input_grad": 0, "weight_grad": 0}
    epochs = [
        {"epoch": n, "loss": 1 / n, "heldout_clean": 90.0 + n, "heldout_robust": 50.0 + n, "passes": passes,
         "epoch_seconds": (1 + PASSES[arm] / 1000) * seconds, "selected_classes": [0.5, 0.5],
         "seconds": {"scoring": 0.1, "attack": 0.5, "update": 0.2, "monitor": 9.0}}
        for n, seconds in enumerate((1.0, 60.0, 1.0), 1)
    ]  # fmt: skip
    return {
        "arm": arm,
        "seed": seed,
        "clean": 97.0,
        "robust": robust,
        "evaluation": {"seconds": 180.0},
        "training": {"cost": cost, "history": epochs, "device": "a CPU"},
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three arms' metrics, two seeds each, and a file of a run that the protocol does not ask for."""
    folder = tmp_path / "digits"
    folder.mkdir()
    for arm, values in ROBUST.items():
        for seed, robust in zip((3, 5), values, strict=True):
            (folder / f"{arm}-{seed}.json").write_text(json.dumps(metrics(arm, seed, robust)))
    (folder / "margin-25-3.json").write_text("{}")
    return folder


@pytest.fixture
def runs(folder: Path) -> Metrics:
    return table.load(folder, protocol())


def made(folder: Path, asked: Protocol) -> pd.DataFrame:
    return table.table(table.runs(table.load(folder, asked)), asked).set_index("arm")


def test_rows_and_columns(folder: Path) -> None:
    assert made(folder, protocol()).index.tolist() == ["clean", "full", "margin-50"]
    assert made(folder, protocol(arms=["margin-50", "full"])).index.tolist() == ["margin-50", "full"]
    assert made(folder, protocol()).reset_index().columns.tolist() == COLUMNS.split(",")


def test_paired_difference(folder: Path) -> None:
    rows = made(folder, protocol())
    mean, half = mean_and_half_width([2.0, 1.0])
    assert rows.loc["margin-50", "robust_minus_full"] == mean == 1.5
    assert rows.loc["margin-50", "robust_minus_full_ci"] == half
    assert half is not None
    assert half < rows.loc["margin-50", "robust_ci"]  # pairing removes what the seeds have in common
    assert rows.loc["full", "robust_minus_full"] == 0
    assert pd.isna(rows.loc["full", "robust_minus_full_ci"])


def test_costs(folder: Path) -> None:
    """Ratios to full; one slow epoch does not change the time."""
    rows = made(folder, protocol())
    assert rows["attack_cost"].tolist() == [0.0, 1.0, 0.5]
    assert rows["total_cost"].tolist() == [300 / 1300, 1.0, 800 / 1300]
    assert rows["epoch_time"].tolist() == [0.5, 1.0, 0.75]


def test_without_full(folder: Path) -> None:
    row = made(folder, protocol(arms=["margin-50"])).loc["margin-50"]
    assert row["robust"] == 86.5
    assert row[["robust_minus_full", "attack_cost", "total_cost", "epoch_time", "paper_robust"]].isna().all()


def test_one_seed(folder: Path) -> None:
    rows = made(folder, protocol(seeds=[5]))
    assert rows[["clean_ci", "robust_ci", "robust_minus_full_ci"]].isna().all(axis=None)
    assert "±" not in table.readable(rows.reset_index()).to_string()


def test_csv(folder: Path) -> None:
    content = table.to_csv(made(folder, protocol()).reset_index())
    lines = content.decode().splitlines()
    assert lines[0] == COLUMNS
    assert lines[1] == "clean,2,97.000,0.000,11.000,12.706,-74.000,50.825,0.000,0.231,0.500,,,,,,,"
    back = pd.read_csv(io.BytesIO(content)).set_index("arm")
    assert back.loc["full", ["paper_clean", "paper_robust"]].tolist() == [96.2, 84.5]
    assert back["paper_clean"].isna().tolist() == [True, False, True]


@pytest.mark.parametrize(("content", "found"), [(None, "missing"), ('{"clean": 9', "not whole"), ("{}", "no run's")])
def test_missing_or_broken_run(folder: Path, content: str | None, found: str) -> None:
    path = folder / "full-5.json"
    path.unlink() if content is None else path.write_text(content)
    line = rf"^[^\n]*full-5\.json is {found}[^\n]*dvc repro evaluate-digits@full-5`$"
    with pytest.raises(ResultsError, match=line):
        table.load(folder, protocol())


# ---- further columns


def test_further_columns(runs: Metrics) -> None:
    """Means over the seeds that have a value."""
    for seed, robust in enumerate((41.0, 43.0)):
        runs["full"][seed]["worst_case"] = {"robust": robust}
        runs["full"][seed]["checkpoints"] = {"last": {"robust": robust + 20}, "best": {"robust": robust + 21}}
    runs["full"][0]["attacks"] = {"autoattack": {"robust": 44.0}, "pgd": {"robust": 80.0}}
    rows = table.table(table.runs(runs), protocol()).set_index("arm")[list(table.MORE)]
    assert rows.loc["full"].to_dict() == {
        "robust_last": 62.0, "robust_best": 63.0, "autoattack": 44.0, "worst_case": 42.0
    }  # fmt: skip
    assert rows.loc[["clean", "margin-50"]].isna().all(axis=None)


def test_shared_worst_case(folder: Path) -> None:
    """Seed 3 alone faced AutoAttack, and its own worst case is over fewer images."""
    survived = {"pgd": [1, 1, 1, 0], "square": [1, 0], "autoattack": [0, 1, 1]}
    entries = {
        name: {"robust": 0.0, "examples": len(bits), "outcomes": pack(torch.tensor(bits, dtype=torch.bool))}
        for name, bits in survived.items()
    }
    for path in folder.iterdir():
        attacks = [name for name in entries if name != "autoattack" or "-3" in path.name]
        worst = {"robust": 5.0, "examples": 3 if "-3" in path.name else 4, "outcomes": "00", "attacks": attacks}
        run = json.loads(path.read_text()) | {"attacks": {name: entries[name] for name in attacks}, "worst_case": worst}
        path.write_text(json.dumps(run))
    for run in (run for runs in table.load(folder, protocol()).values() for run in runs):
        assert run["worst_case"]["attacks"] == ["pgd", "square"]
        assert run["worst_case"]["robust"] == 50.0  # the first image and the third, which Square did not see
        assert unpack(run["worst_case"]["outcomes"], run["worst_case"]["examples"]).tolist() == [1, 0, 1, 0]
    alone = table.load(folder, protocol(seeds=[3]))["full"][0]["worst_case"]
    assert alone["attacks"] == ["pgd", "square", "autoattack"]
    assert alone["robust"] == pytest.approx(100 / 3)


@pytest.mark.parametrize(
    ("failed", "mark"),
    [
        (["steps-suffice"], ["attack not converged"]),
        (["white-box-beats-gradient-free"], ["attack not converged"]),
        (["gradients-exist"], ["masked gradients?"]),
        (["large-eps-breaks"], ["masked gradients?"]),
        (["steps-suffice", "deterministic"], ["attack not converged", "masked gradients?"]),
        ([], []),
    ],
)
def test_marks_of_the_checklist(failed: list[str], mark: list[str]) -> None:
    run = metrics("margin-50", 3, 80.0)
    assert table.marks(run) == []  # a run without a checklist
    names = ("steps-suffice", "white-box-beats-gradient-free", "gradients-exist", "large-eps-breaks", "deterministic")
    run["checklist"] = [{"check": name, "passed": name not in failed} for name in names]
    assert table.marks(run) == mark


def test_mark_of_overfitting(runs: Metrics) -> None:
    for arm in ("full", "clean"):  # clean attacks nothing, and gets no mark
        lines = ({"epoch": 1, "heldout_fgsm": 52.0, "heldout_robust": 50.0},
                 {"epoch": 2, "heldout_fgsm": 60.0, "heldout_robust": 0.0})  # fmt: skip
        history = runs[arm][0]["training"]["history"]
        runs[arm][0]["training"]["history"] = [history[-1] | line for line in lines]
    assert table.marks(runs["full"][0]) == ["catastrophic overfitting"]
    assert table.marks(runs["clean"][0]) == []


def test_marks_column(runs: Metrics) -> None:
    failed = [{"check": name, "passed": False} for name in ("gradients-exist", "steps-suffice")]
    runs["margin-50"][0]["checklist"] = failed
    runs["margin-50"][1]["checklist"] = failed[:1]
    rows = table.table(table.runs(runs), protocol()).set_index("arm")
    assert rows["marks"].tolist() == ["", "", "attack not converged (seed 3); masked gradients? (seed 3, 5)"]


# ---- for people


def test_readable(runs: Metrics) -> None:
    shown = table.readable(table.table(table.runs(runs), protocol())).set_index("arm")
    assert shown.columns.tolist() == [
        "clean", "robust", "robust − full", "attack cost", "total cost", "epoch time", "paper clean", "paper robust",
    ]  # fmt: skip
    half = mean_and_half_width([2.0, 1.0])[1]
    assert shown.loc["margin-50"].tolist()[2:] == [f"+1.5 ± {half:.1f}", "0.50", "0.62", "0.75", "–", "–"]
    assert shown.loc["full"].tolist()[2:] == ["+0.0", "1.00", "1.00", "1.00", "96.2", "84.5"]
    runs["full"][0] |= {"attacks": {"autoattack": {"robust": 44.0}}, "checklist": [{"check": "x", "passed": False}]}
    shown = table.readable(table.table(table.runs(runs), protocol())).set_index("arm")
    assert shown["AutoAttack"].tolist() == ["–", "44.0", "–"]
    assert shown["marks"].tolist() == ["", "masked gradients? (seed 3)", ""]


def test_no_minus_before_zero() -> None:
    assert table._number(-0.04, sign="+") == "+0.0"
    assert table._number(-0.04) == "0.0"


def test_runs(runs: Metrics) -> None:
    frame = table.runs(runs)
    assert list(zip(frame["arm"], frame["seed"], frame["robust"], strict=True)) == [
        (arm, seed, robust) for arm, values in ROBUST.items() for seed, robust in zip((3, 5), values, strict=True)
    ]
    assert frame["total_cost"].tolist() == [300, 300, 1300, 1300, 800, 800]
    assert frame["epoch_time"].tolist() == [1, 1, 2, 2, 1.5, 1.5]  # the median of an epoch of a minute, two of a second
    hours = [62 * factor / 3600 for factor in (1, 1, 2, 2, 1.5, 1.5)]
    assert frame["training_hours"].tolist() == pytest.approx(hours)
    assert frame["evaluation_hours"].tolist() == pytest.approx([0.05] * 6)
    assert set(frame["device"]) == {"a CPU"}


def test_epochs(runs: Metrics) -> None:
    frame = table.epochs(runs)
    assert len(frame) == 3 * 2 * 3
    first = frame[(frame["arm"] == "full") & (frame["seed"] == 3)]
    assert first["passes"].tolist() == [45, 90, 135]  # the monitor's are left out
    assert first["epoch"].tolist() == [1, 2, 3]
    assert first["heldout_robust"].tolist() == [51.0, 52.0, 53.0]
    assert first["rest"].tolist() == pytest.approx([2 - 0.8, 120 - 0.8, 2 - 0.8])
