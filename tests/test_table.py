"""The results table: of the runs that params.yaml asks for, paired by seed."""

import io
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor

from seladv.evaluation.attacks import entry
from seladv.evaluation.outcomes import survivors
from seladv.report import table
from seladv.report.marks import Mark
from seladv.report.stats import mean_and_half_width
from seladv.report.table import Metrics
from seladv.study import params
from seladv.study.places import StudyError
from seladv.study.protocol import Protocol

ROOT = Path(__file__).parents[1]
COLUMNS = (
    "arm,seeds,clean,clean_ci,robust,robust_ci,robust_minus_full,robust_minus_full_ci,"
    "attack_cost,total_cost,epoch_time,paper_clean,paper_robust,"  # the contract's thirteen
    "pgd_50,autoattack_50,pgd_strong_50,worst_50,pgd_minus_autoattack,robust_last,robust_best,marks"
)
ROBUST = {"clean": [10.0, 12.0], "full": [80.0, 90.0], "margin-50": [82.0, 91.0]}
SUBSET = list(range(50))  # of 100 test images
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
    points = [{"eps": 1.0, "steps": steps, **entry(right(0))} for steps in (40, 80)]
    attacks = {name: entry(right(25)) for name in ("pgd-strong", "fgsm", "noise")}
    return {
        "arm": arm,
        "seed": seed,
        "clean": 97.0,
        "robust": robust,
        "evaluation": {"seconds": 180.0, "steps": 40, "subset": SUBSET},
        "attacks": {"clean": entry(right(100, 100)), "pgd": entry(right(25, 100)), **attacks},
        "curves": {"eps": points, "steps": points},
        "zero_gradients": 0,
        "training": {"cost": cost, "history": epochs, "device": "a CPU", "threads": 1},
    }


def auto(robust: int = 25, **changes: Any) -> dict[str, Any]:
    """AutoAttack's file: of the 50 images, `robust` survive every member."""
    members = {name: {**entry(right(robust)), "seconds": 45.0} for name in ("apgd-ce", "apgd-t", "fab-t", "square")}
    return {**entry(right(robust)), "members": members, "subset": SUBSET, "warnings": [], **changes}


def right(count: int, n: int = 50) -> Tensor:
    """Of n images, the first ones."""
    return torch.arange(n) < count


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three arms' metrics, two seeds each, and a file of a run that the protocol does not ask for."""
    folder, other = tmp_path / "metrics" / "digits", tmp_path / "autoattack" / "digits"
    folder.mkdir(parents=True)
    other.mkdir(parents=True)
    for arm, values in ROBUST.items():
        for seed, robust in zip((3, 5), values, strict=True):
            (folder / f"{arm}-{seed}.json").write_text(json.dumps(metrics(arm, seed, robust)))
            (other / f"{arm}-{seed}.json").write_text(json.dumps(auto()))
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
    assert lines[1] == (
        "clean,2,97.000,0.000,11.000,12.706,-74.000,50.825,0.000,0.231,0.500,,,50.000,50.000,50.000,50.000,0.000,,,"
    )
    back = pd.read_csv(io.BytesIO(content)).set_index("arm")
    assert back.loc["full", ["paper_clean", "paper_robust"]].tolist() == [96.2, 84.5]
    assert back["paper_clean"].isna().tolist() == [True, False, True]


@pytest.mark.parametrize(("content", "found"), [(None, "missing"), ('{"clean": 9', "not whole"), ("{}", "no run's")])
@pytest.mark.parametrize(("kind", "stage"), [("metrics", "evaluate"), ("autoattack", "autoattack")])
def test_missing_or_broken_run(folder: Path, content: str | None, found: str, kind: str, stage: str) -> None:
    path = folder.parents[1] / kind / "digits" / "full-5.json"
    path.unlink() if content is None else path.write_text(content)
    line = rf"^[^\n]*{kind}/digits/full-5\.json is {found}[^\n]*dvc repro {stage}-digits@full-5`$"
    with pytest.raises(StudyError, match=line):
        table.load(folder, protocol())


def test_other_images_than_the_others(folder: Path) -> None:
    path = folder.parents[1] / "autoattack/digits/margin-50-3.json"
    path.write_text(json.dumps(auto(subset=list(range(1, 51)))))
    with pytest.raises(StudyError, match=r"^autoattack-digits@margin-50-3 did not attack the same 50 images[^\n]*$"):
        table.load(folder, protocol())


# ---- further columns


def test_further_columns(folder: Path) -> None:
    """Means over the seeds that have a value; PGD is that of the same images as AutoAttack."""
    path = folder / "full-3.json"
    run = json.loads(path.read_text())
    run["attacks"] |= {
        "pgd": entry(right(60, 100)),
        "pgd-strong": entry(right(40)),
        "noise": entry(~right(5)),
        "fgsm": entry(right(50)),
    }
    run["checkpoints"] = {"last": {"robust": 61.0}, "best": {"robust": 62.0}}
    path.write_text(json.dumps(run))
    (folder.parents[1] / "autoattack/digits/full-3.json").write_text(json.dumps(auto(35)))
    loaded = table.load(folder, protocol())
    assert survivors(loaded["full"][0]["worst_case"]).tolist() == [5 <= index < 35 for index in range(50)]
    assert loaded["full"][0]["autoattack"]["robust"] == 70
    runs = table.runs(loaded)
    row = runs[(runs["arm"] == "full") & (runs["seed"] == 3)].iloc[0]
    further = {"pgd_50": 100, "autoattack_50": 70, "pgd_strong_50": 80, "worst_50": 60, "pgd_minus_autoattack": 30}
    assert row[list(further)].to_dict() == further
    rows = table.table(runs, protocol()).set_index("arm")
    assert rows.loc["full", "pgd_minus_autoattack"] == 15
    assert rows.loc["full", ["robust_last", "robust_best"]].tolist() == [61, 62]
    assert rows.loc["clean", ["robust_last", "robust_best"]].isna().all()


def test_columns_name_their_number_of_images(runs: Metrics) -> None:
    """Each is defined in one place."""
    assert [name for name in table.MORE if not name.endswith("_{n}")] == [
        "pgd_minus_autoattack", "robust_last", "robust_best"
    ]  # fmt: skip
    assert {name.format(n=50) for name in table.MORE} <= set(table.runs(runs).columns)


@pytest.mark.parametrize("change", [{"device": "another"}, {"threads": 2}])
def test_times_of_unlike_machines_are_not_compared(runs: Metrics, change: dict[str, Any]) -> None:
    runs["clean"][1]["training"] |= change
    rows = table.table(table.runs(runs), protocol())
    assert rows["epoch_time"].isna().all()
    assert rows["total_cost"].notna().all()


def test_mark_of_overfitting(runs: Metrics) -> None:
    for arm in ("full", "clean"):  # clean attacks nothing, and gets no mark
        lines = ({"epoch": 1, "heldout_fgsm": 52.0, "heldout_robust": 50.0},
                 {"epoch": 2, "heldout_fgsm": 60.0, "heldout_robust": 0.0})  # fmt: skip
        history = runs[arm][0]["training"]["history"]
        runs[arm][0]["training"]["history"] = [history[-1] | line for line in lines]
    marked = table.runs(runs).set_index(["arm", "seed"])["marks"]
    assert marked["full", 3] == [Mark("catastrophic overfitting")]
    assert marked["clean", 3] == []


def test_marks_column(runs: Metrics) -> None:
    for run, robust in zip(runs["margin-50"], (20, 22), strict=True):
        run["autoattack"] = auto(robust)
    runs["margin-50"][1]["autoattack"]["revision"] = "0123-dirty"
    rows = table.table(table.runs(runs), protocol()).set_index("arm")
    shown = "PGD overstates (seed 3: by 10.0, seed 5: by 6.0); uncommitted code (seed 5)"
    assert rows["marks"].tolist() == ["", "", shown]


def test_marks_by_transfer(runs: Metrics) -> None:
    pairs = [{"source": "clean", "target": "full", "seed": 3, **entry(right(0))}]
    found = table.runs(runs, {"subset": SUBSET, "pairs": pairs})
    assert found["marks"].map(len).tolist() == [0, 0, 1, 0, 0, 0]
    assert table.runs(runs)["marks"].map(len).sum() == 0


# ---- for people


def test_readable(runs: Metrics) -> None:
    shown = table.readable(table.table(table.runs(runs), protocol())).set_index("arm")
    assert shown.columns.tolist() == [
        "clean", "robust", "robust − full", "attack cost", "total cost", "epoch time", "paper clean", "paper robust",
        "PGD 50", "AutoAttack 50", "PGD strong 50", "worst 50", "PGD − AutoAttack",
    ]  # fmt: skip
    half = mean_and_half_width([2.0, 1.0])[1]
    assert shown.loc["margin-50"].tolist()[2:8] == [f"+1.5 ± {half:.1f}", "0.50", "0.62", "0.75", "–", "–"]
    assert shown.loc["full"].tolist()[2:] == [
        "+0.0", "1.00", "1.00", "1.00", "96.2", "84.5", "50.0", "50.0", "50.0", "50.0", "+0.0"
    ]  # fmt: skip
    runs["full"][0]["zero_gradients"] = 4
    shown = table.readable(table.table(table.runs(runs), protocol())).set_index("arm")
    assert shown["marks"].tolist() == ["", "gradients misled (seed 3: 4 of 50 gradients are zero)", ""]


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
    assert frame["evaluation_hours"].tolist() == pytest.approx([0.1] * 6)
    assert set(frame["device"]) == {"a CPU"}


def test_epochs(runs: Metrics) -> None:
    frame = table.epochs(runs)
    assert len(frame) == 3 * 2 * 3
    first = frame[(frame["arm"] == "full") & (frame["seed"] == 3)]
    assert first["passes"].tolist() == [45, 90, 135]  # the monitor's are left out
    assert first["epoch"].tolist() == [1, 2, 3]
    assert first["heldout_robust"].tolist() == [51.0, 52.0, 53.0]
    assert first["rest"].tolist() == pytest.approx([2 - 0.8, 120 - 0.8, 2 - 0.8])
