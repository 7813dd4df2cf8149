"""Which networks there are to explore, and what happens where there is none."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from seladv import explore_networks
from seladv.explore_networks import Found
from seladv.params import ParamsError


@pytest.fixture
def study(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study with nothing in it but its settings; short trainings are of one epoch."""
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(root / name, tmp_path / name)
    monkeypatch.setattr(explore_networks, "SHORT_EPOCHS", 1)
    explore_networks.load.cache_clear()
    explore_networks.images.cache_clear()
    return tmp_path


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_without_networks_two_are_trained_and_one_line_says_so(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = explore_networks.ensure(study, "digits")
    said = capsys.readouterr()
    assert said.err == ""
    (line,) = said.out.splitlines()
    assert str(study / "models" / "digits") in line
    assert "margin-50 and full are trained on the digits for 1 epochs" in line
    assert [run.label for run in runs.pop("digits")] == ["full, seed 0 (short)", "margin-50, seed 0 (short)"]
    assert not runs
    made = files(study) - {"params.yaml", "dvc.yaml"}
    assert made
    assert all(path.startswith("runs/lab/explore/digits/") for path in made)


def test_they_are_trained_once(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = explore_networks.ensure(study, "digits")
    capsys.readouterr()
    assert explore_networks.ensure(study, "digits") == first
    assert capsys.readouterr().out == ""
    assert list(explore_networks.ensure(study, "mnist")) == ["digits"]
    assert "No trained network of mnist" in capsys.readouterr().out


def test_a_network_is_loaded_with_its_images_and_its_record(study: Path) -> None:
    run = explore_networks.ensure(study, "digits")["digits"][1]
    subject = explore_networks.load(study, run)
    assert subject.names == tuple("0123456789")
    assert subject.record == json.loads((run.folder / "run.json").read_text())
    assert len(subject.record["history"]) == 1
    assert not subject.model.training
    x, _ = subject.data["test"].batch(torch.arange(3))
    assert subject.model(x).shape == (3, 10)


def test_the_studys_own_runs_come_first_and_unfinished_ones_not_at_all(study: Path) -> None:
    for place, name, finished in (
        ("runs/lab/models", "margin-30-0", True),
        ("models", "full-0", True),
        ("models", "margin-50-1", True),
        ("models", "margin-50-2", False),  # killed before it wrote its record
        ("models", "marjin-50-0", True),  # an arm of another time
        ("models", "full-x", True),
    ):
        folder = study / place / "digits" / name
        folder.mkdir(parents=True)
        if finished:
            (folder / "run.json").write_text("{}")
    found = explore_networks.find(study, "digits")
    assert [(run.label) for run in found] == ["full, seed 0", "margin-50, seed 1", "margin-30, seed 0 (by hand)"]
    assert found[0] == Found("digits", "full", 0, study / "models/digits/full-0", "")


def test_data_that_are_missing_are_named(study: Path) -> None:
    with pytest.raises(FileNotFoundError, match="dvc repro data-mnist"):
        explore_networks.images(study, "mnist")


def test_a_study_without_digits_is_told_so(study: Path) -> None:
    text = (study / "params.yaml").read_text()
    (study / "params.yaml").write_text(text[text.index("\nmnist:") :])
    with pytest.raises(ParamsError, match="unknown protocol 'digits'"):
        explore_networks.ensure(study, "mnist")
