"""A run's state is named by all that determines the run: nothing else ever resumes it."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from seladv import lineage

CODE = [path.stem for path in lineage.of_stage("2-train")]
MARGIN = ["criteria/margin", "criteria/random"]

Settings = dict[str, Any]


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    """Stands for a prepared data set."""
    path = tmp_path / "digits.safetensors"
    path.write_bytes(b"images")
    return path


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of seladv's files that `state_path` takes for its own."""
    folder = tmp_path / "seladv"
    shutil.copytree(lineage.PACKAGE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(lineage, "PACKAGE", folder)
    return folder


def name(settings: Settings, prepared: Path, *, arm: str = "full", seed: int = 0) -> str:
    return lineage.state_path(Path("runs"), settings, arm=arm, seed=seed, data=prepared).name


def test_the_same_run_has_the_same_state(settings: Settings, prepared: Path) -> None:
    assert name(settings, prepared) == name(dict(reversed(settings.items())), prepared)


def test_another_arm_or_seed_has_another_state(settings: Settings, prepared: Path) -> None:
    names = [name(settings, prepared, arm=arm, seed=seed) for arm in ("full", "margin-50") for seed in (0, 1)]
    assert len(set(names)) == 4


def test_any_other_setting_has_another_state(settings: Settings, prepared: Path) -> None:
    before = name(settings, prepared)
    for key, value in settings.items():
        other = f"{value}-other" if isinstance(value, str | dict) else value + 1
        assert name(settings | {key: other}, prepared) != before, key


def test_another_data_file_has_another_state(settings: Settings, prepared: Path) -> None:
    before = name(settings, prepared)
    prepared.write_bytes(b"other images")
    assert name(settings, prepared) != before


@pytest.mark.parametrize("module", [*CODE, *MARGIN])
def test_another_version_of_a_module_has_another_state(
    settings: Settings, prepared: Path, package: Path, module: str
) -> None:
    before = name(settings, prepared, arm="margin-50-warmup")
    with (package / f"{module}.py").open("a") as file:
        file.write("# changed\n")
    assert name(settings, prepared, arm="margin-50-warmup") != before


def test_another_criterion_or_a_module_that_training_does_not_run_changes_nothing(
    settings: Settings, prepared: Path, package: Path
) -> None:
    before = name(settings, prepared, arm="margin-50-warmup")
    for path in package.rglob("*.py"):
        if str(path.relative_to(package).with_suffix("")) not in (*CODE, *MARGIN):
            with path.open("a") as file:
                file.write("# changed\n")
    assert name(settings, prepared, arm="margin-50-warmup") == before


def test_another_torch_or_thread_count_has_another_state(
    settings: Settings, prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {name(settings, prepared)}
    monkeypatch.setattr(torch, "__version__", "0.0")
    names.add(name(settings, prepared))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 99)
    names.add(name(settings, prepared))
    assert len(names) == 3


def test_the_attacks_of_another_network_or_setting_have_another_state(prepared: Path, tmp_path: Path) -> None:
    def name(steps: int = 40, seed: int = 0) -> str:
        settings = {"evaluate": {"steps": steps}}
        return lineage.attacks_path(
            Path("state"), settings, arm="full", seed=seed, data=prepared, network=tmp_path / "last"
        ).name

    (tmp_path / "last").write_bytes(b"weights")
    before = name()
    assert before == name()
    assert len({before, name(steps=20), name(seed=1)}) == 3
    (tmp_path / "last").write_bytes(b"other weights")
    assert name() != before
