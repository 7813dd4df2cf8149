"""A run's files are written whole or not at all, never executed, and refused with one line where they are wrong."""

import errno
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from seladv.data import images
from seladv.data.images import Images
from seladv.study.places import StudyError, write_json
from seladv.training import checkpoint, models
from seladv.training.run import Run
from seladv.training.train import train

CPU = torch.device("cpu")
Read = Callable[[Path], object]

TENSORS = {"a": torch.arange(5), "b.c": torch.rand(2, 3).to(torch.float64), "empty": torch.zeros(0)}
INFO = {"history": [{"loss": 0.1, "epoch": 1}], "step": 3, "text": "ε × 2"}
MADE_BY_A_STAGE: dict[str, Read] = {
    "checkpoint": checkpoint.read,
    "data": images.load,
    "network": lambda path: checkpoint.load_network(path, "digits-cnn", device=CPU),
}
READERS = MADE_BY_A_STAGE | {"state": checkpoint.load_state}
readers = pytest.mark.parametrize("read", READERS.values(), ids=READERS)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "file.safetensors"


def refused(read: Read, path: Path) -> None:
    """`read` must raise one line that names the file."""
    with pytest.raises(StudyError, match=r"file\.safetensors") as caught:
        read(path)
    assert "\n" not in str(caught.value)


# ---- whole or not at all


def test_reads_what_was_written(path: Path) -> None:
    checkpoint.write(path, TENSORS, INFO)
    tensors, info = checkpoint.read(path)
    assert info == INFO
    assert tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensor, TENSORS[name]) for name, tensor in tensors.items())
    assert all(tensor.dtype == TENSORS[name].dtype for name, tensor in tensors.items())


@pytest.mark.parametrize("former", [None, b"former"])
@pytest.mark.parametrize("stage", ["fsync", "replace"])
def test_full_disk_leaves_the_former_file(
    path: Path, monkeypatch: pytest.MonkeyPatch, former: bytes | None, stage: str
) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path.parent.mkdir()
    if former is not None:
        path.write_bytes(former)
    before = sorted(path.parent.iterdir())
    monkeypatch.setattr(os, stage, full)
    writes: list[Callable[[], None]] = [
        lambda: checkpoint.write(path, TENSORS, INFO),
        lambda: checkpoint.save_state(path, {"history": []}),
        lambda: write_json(path, INFO),
    ]
    for write in writes:
        with pytest.raises(StudyError, match=r"file\.safetensors could not be written \(No space left") as caught:
            write()
        assert "\n" not in str(caught.value)
        assert sorted(path.parent.iterdir()) == before
        assert former is None or path.read_bytes() == former


def test_nan_is_refused_before_writing(path: Path) -> None:
    write_json(path, INFO)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"loss": float("nan")})
    assert path.read_bytes() == before


# ---- wrong files


@pytest.mark.parametrize("read", MADE_BY_A_STAGE.values(), ids=MADE_BY_A_STAGE)
def test_missing_file(path: Path, read: Read) -> None:
    with pytest.raises(StudyError, match=r"^\S+file\.safetensors does not exist: run .*dvc repro[^\n]*$"):
        read(path)


@readers
@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.999])
def test_truncated_file(path: Path, read: Read, share: float) -> None:
    model = models.build("digits-cnn", seed=0)
    if read is checkpoint.load_state:
        checkpoint.save_state(path, {"model": model.state_dict()})
    else:
        checkpoint.write(path, model.state_dict(), {"model": "digits-cnn"})
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    refused(read, path)


@readers
@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_pickle_is_never_executed(path: Path, tmp_path: Path, read: Read, protocol: int) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return open, (str(tmp_path / "executed"), "w")

    path.parent.mkdir()
    path.write_bytes(pickle.dumps(Bomb(), protocol))
    refused(read, path)
    torch.save({"model": Bomb()}, path)
    refused(read, path)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("read", MADE_BY_A_STAGE.values(), ids=MADE_BY_A_STAGE)
def test_another_programs_file(path: Path, read: Read) -> None:
    path.parent.mkdir()
    save_file({"weight": torch.zeros(3)}, path)
    refused(read, path)


def test_truncated_state_stops_the_run(settings: dict[str, Any], digits: dict[str, Images], path: Path) -> None:
    checkpoint.save_state(path, Run(settings, arm="full", seed=0, data=digits, device=CPU).state())
    path.write_bytes(path.read_bytes()[:-1])
    refused(lambda saved: train(settings, arm="full", seed=0, data=digits, device=CPU, saved=saved), path)


# ---- networks


def test_saved_network_computes_the_same(
    settings: dict[str, Any], digits: dict[str, Images], batch: tuple[Tensor, Tensor], path: Path
) -> None:
    run = Run(settings, arm="full", seed=5, data=digits, device=CPU)
    checkpoint.save_networks(path, {"last": run.model.state_dict()}, model="digits-cnn", classes=run.classes)
    loaded = checkpoint.load_network(path / "last.safetensors", "digits-cnn", device=CPU)
    assert not loaded.training
    assert torch.equal(loaded(batch[0]), run.model.eval()(batch[0]))


@pytest.mark.parametrize("classes", [3, 12])
def test_number_of_classes_is_saved(path: Path, batch: tuple[Tensor, Tensor], classes: int) -> None:
    model = models.build("digits-cnn", seed=0, classes=classes)
    checkpoint.save_networks(path, {"last": model.state_dict()}, model="digits-cnn", classes=classes)
    loaded = checkpoint.load_network(path / "last.safetensors", "digits-cnn", device=CPU)
    assert loaded(batch[0]).shape == (24, classes)


@pytest.mark.parametrize("name", ["mnist-cnn", "digits-cnn-of-another-year"])
def test_network_of_another_name_is_refused(path: Path, name: str) -> None:
    """Even where its layers would fit."""
    checkpoint.write(path, models.build("digits-cnn", seed=0).state_dict(), {"model": name})
    with pytest.raises(StudyError, match=rf"^\S+ holds a '{name}', but the protocol's model is 'digits-cnn'[^\n]*$"):
        READERS["network"](path)


def test_network_with_other_layers_is_refused(path: Path) -> None:
    checkpoint.write(path, models.build("mnist-cnn", seed=0).state_dict(), {"model": "digits-cnn"})
    refused(READERS["network"], path)
