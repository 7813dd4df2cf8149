"""Mistakes of a user: each is a StudyError of one line that says what, where and what to do."""

import runpy
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from seladv.attack import pgd
from seladv.data import images
from seladv.report import timing
from seladv.selection import SELECTORS
from seladv.study import places
from seladv.study.places import StudyError

X, Y = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(5)


@pytest.fixture
def study(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study without data and results, and the working directory in one of its folders."""
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(root / name, tmp_path)
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    return tmp_path


def test_root(study: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    assert places.root() == study
    monkeypatch.chdir(tmp_path_factory.mktemp("outside"))
    with pytest.raises(StudyError, match=r"^\S+ is not inside the study: no folder above it holds .*; go there$"):
        places.root()


def test_network(study: Path) -> None:
    path = study / "models/digits/full-0/best.safetensors"
    with pytest.raises(StudyError, match=r"^\S+best\.safetensors does not exist: run `dvc repro train-digits@full-0`"):
        places.network(study, "digits", arm="full", seed=0, which="best")
    path.parent.mkdir(parents=True)
    path.touch()
    assert places.network(study, "digits", arm="full", seed=0, which="best") == path


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (None, r"mnist\.safetensors does not exist: run `dvc repro data-mnist` first"),
        (b"no data", r"mnist\.safetensors is not a prepared data set \(.*\): delete it and run `dvc repro data-mnist`"),
    ],
)
def test_data(tmp_path: Path, content: bytes | None, line: str) -> None:
    path = tmp_path / "mnist.safetensors"
    if content:
        path.write_bytes(content)
    with pytest.raises(StudyError, match=rf"^[^\n]*{line}$"):
        images.load(path)


@pytest.mark.parametrize(
    ("protocol", "line"),
    [("digit", r"unknown protocol 'digit'; allowed: digits, mnist"), ("mnist", r"mnist\.safetensors does not exist")],
)
def test_timing(study: Path, protocol: str, line: str) -> None:
    with pytest.raises(StudyError, match=rf"^[^\n]*{line}[^\n]*$"):
        timing.main(protocol)


@pytest.mark.filterwarnings("ignore:.*found in sys.modules")
@pytest.mark.parametrize(
    ("arguments", "line"),
    [([], r"usage: python -m seladv\.report\.timing PROTOCOL"), (["x"], r".*unknown protocol 'x'.*")],
)
def test_timing_command(study: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], line: str) -> None:
    monkeypatch.setattr(sys, "argv", ["timing", *arguments])
    with pytest.raises(SystemExit, match=rf"^{line}$"):
        runpy.run_module("seladv.report.timing", run_name="__main__")


# ---- the library, which raises ValueError


CALLS: dict[str, tuple[Callable[[], object], str]] = {
    "images as bytes": (
        lambda: pgd(nn.Flatten(), (255 * X).to(torch.uint8), Y, eps=0.1, step_size=0.05, steps=1),
        r"pgd: the images are uint8 .*; floating-point images .* are needed: x.float\(\) / 255",
    ),
    "normalised images": (
        lambda: pgd(nn.Flatten(), X - 0.5, Y, eps=0.1, step_size=0.05, steps=1),
        r"pgd: images must lie in \[0, 1\], found \[-0\.\d+, 0\.\d+\]; normalise inside the model, not before it",
    ),
    "more samples than there are": (lambda: SELECTORS["margin"](nn.Flatten(), X, Y, 6), r"select.* 6 .*5"),
    "no last layer": (
        lambda: SELECTORS["gradmatch-last"](nn.Flatten(), X, Y, 1),
        r"gradmatch-last: Flatten has no nn\.Linear",
    ),
}


@pytest.mark.parametrize(("call", "line"), CALLS.values(), ids=CALLS)
def test_library(call: Callable[[], object], line: str) -> None:
    with pytest.raises(ValueError, match=rf"^[^\n]*{line}[^\n]*$"):
        call()
