"""A saved state is named by all that determines its result, so nothing else resumes it."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from seladv.study import arms, digests
from seladv.training import checkpoint
from seladv.training.device import arithmetic

ARM = "margin-50-warmup"

Settings = dict[str, Any]


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    """Replaces a prepared data set."""
    path = tmp_path / "digits.safetensors"
    path.write_bytes(b"images")
    return path


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the package whose files the digests read."""
    folder = tmp_path / "seladv"
    shutil.copytree(digests.PACKAGE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(digests, "PACKAGE", folder)
    return folder


def key(settings: Settings, root: Path, *files: Path, arm: str = ARM) -> str:
    """As 2-train.ipynb calls it."""
    code = digests.of_run(root, "2-train", arm)
    return checkpoint.key({**settings, **arithmetic(settings["precision"])}, code, *files)


def test_order_of_settings_does_not_matter(settings: Settings, root: Path, prepared: Path) -> None:
    assert key(settings, root, prepared) == key(dict(reversed(settings.items())), root, prepared)


def test_every_setting_counts(settings: Settings, root: Path) -> None:
    code = digests.of_run(root, "2-train", ARM)
    before = checkpoint.key(settings, code)
    for name, value in settings.items():
        other = f"{value}-other" if isinstance(value, str | dict) else value + 1
        assert checkpoint.key(settings | {name: other}, code) != before, name


def test_content_of_every_file_counts(prepared: Path, tmp_path: Path) -> None:
    network = tmp_path / "last"
    network.write_bytes(b"weights")
    before = checkpoint.key({}, "", prepared, network)
    network.write_bytes(b"other weights")
    other = checkpoint.key({}, "", prepared, network)
    prepared.write_bytes(b"other images")
    assert len({before, other, checkpoint.key({}, "", prepared, network)}) == 3


def test_name_of_a_file_does_not_count(prepared: Path) -> None:
    before = checkpoint.key({}, "", prepared)
    assert checkpoint.key({}, "", prepared.rename(prepared.with_name("moved"))) == before


def test_every_module_that_training_runs_counts(settings: Settings, root: Path, package: Path) -> None:
    """And no other one, such as another criterion."""
    used = {line.split()[1] for line in digests.of_run(root, "2-train", ARM).splitlines()}
    assert {f"seladv/{name}.py" for name in ("attack", "training/train", "selection/margin", "selection/random")} < used
    before = key(settings, root)
    for path in package.rglob("*.py"):
        content = path.read_text()
        path.write_text(content + "\nchanged = True\n")
        assert (key(settings, root) != before) == (str(path.relative_to(package.parent)) in used), path
        path.write_text(content)


def test_criterion_counts(settings: Settings, root: Path) -> None:
    families = {file for file, *_ in arms.CRITERIA.values()}
    keys = {key(settings, root, arm=f"{name}-50") for name in arms.CRITERIA}
    assert len(keys) == len(families)  # arms of one family differ by the file's name


def test_torch_threads_device_and_precision_count(
    settings: Settings, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [key(settings, root)]
    for owner, name, value in (
        (torch, "__version__", "0.0"),
        (torch, "get_num_threads", lambda: 99),
        (torch.backends.cpu, "get_cpu_capability", lambda: "none"),
    ):
        monkeypatch.setattr(owner, name, value)
        keys.append(key(settings, root))
    keys.append(key(settings | {"precision": "bf16"}, root))
    assert len(set(keys)) == 5
