"""Files of ours: whole or not at all, never executed, and refused with one line where they are not what is asked."""

import errno
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from seladv import checkpoint, data, models, record
from seladv.data import Images
from seladv.run import Run
from seladv.state import capture
from seladv.train import train

CPU = torch.device("cpu")
Read = Callable[[Path], object]

TENSORS = {"a": torch.arange(5), "b.c": torch.rand(2, 3).to(torch.float64), "empty": torch.zeros(0)}
INFO = {"history": [{"loss": 0.1, "epoch": 1}], "step": 3, "text": "ε × 2"}
READERS: dict[str, Read] = {
    "checkpoint": checkpoint.read,
    "data": data.load,
    "model": lambda path: record.load_model(path, "digits-cnn", device=CPU),
}
readers = pytest.mark.parametrize("read", READERS.values(), ids=READERS)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "file.safetensors"


def refused(read: Read, path: Path) -> None:
    """`read` must raise one line that names the file."""
    with pytest.raises(ValueError, match=r"file\.safetensors") as caught:
        read(path)
    assert "\n" not in str(caught.value)


# ---- whole or not at all


def test_what_is_read_is_what_was_written(path: Path) -> None:
    checkpoint.write(path, TENSORS, INFO)
    tensors, info = checkpoint.read(path)
    assert info == INFO
    assert tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensor, TENSORS[name]) for name, tensor in tensors.items())
    assert all(tensor.dtype == TENSORS[name].dtype for name, tensor in tensors.items())


@pytest.mark.parametrize("former", [None, b"former"])
@pytest.mark.parametrize("stage", ["fsync", "replace"])
def test_a_full_disk_leaves_the_former_file_and_nothing_else(
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
        lambda: checkpoint.write_json(path, INFO),
    ]
    for write in writes:
        with pytest.raises(OSError, match=r"file\.safetensors could not be written \(No space left") as caught:
            write()
        assert caught.value.errno == errno.ENOSPC
        assert "\n" not in str(caught.value)
        assert sorted(path.parent.iterdir()) == before
        assert former is None or path.read_bytes() == former


def test_a_number_that_json_lacks_is_refused_before_the_former_file_is_touched(path: Path) -> None:
    checkpoint.write_json(path, INFO)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="not JSON compliant"):
        checkpoint.write_json(path, {"loss": float("nan")})
    assert path.read_bytes() == before


# ---- not what is asked


@readers
def test_a_missing_file_is_named_with_what_makes_it(path: Path, read: Read) -> None:
    with pytest.raises(FileNotFoundError, match=r"^\S+file\.safetensors does not exist: run .*dvc repro[^\n]*$"):
        read(path)


@readers
@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.999])
def test_a_truncated_file_is_refused(path: Path, read: Read, share: float) -> None:
    model = models.build("digits-cnn", seed=0)
    checkpoint.write(path, model.state_dict(), {"model": "digits-cnn"})
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    refused(read, path)


@readers
@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_a_pickle_is_refused_and_never_executed(path: Path, tmp_path: Path, read: Read, protocol: int) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return open, (str(tmp_path / "executed"), "w")

    path.parent.mkdir()
    path.write_bytes(pickle.dumps(Bomb(), protocol))
    refused(read, path)
    torch.save({"model": Bomb()}, path)
    refused(read, path)
    assert not (tmp_path / "executed").exists()


def test_a_truncated_state_stops_its_run(settings: dict[str, Any], digits: dict[str, Images], path: Path) -> None:
    checkpoint.write(path, *capture(Run(settings, arm="full", seed=0, data=digits, device=CPU)))
    path.write_bytes(path.read_bytes()[:-1])
    refused(lambda saved: train(settings, arm="full", seed=0, data=digits, device=CPU, saved=saved), path)


@readers
def test_a_safetensors_file_of_another_origin_is_refused(path: Path, read: Read) -> None:
    from safetensors.torch import save_file

    path.parent.mkdir()
    save_file({"weight": torch.zeros(3)}, path)
    refused(read, path)


def test_a_saved_network_computes_what_it_computed(
    settings: dict[str, Any], digits: dict[str, Images], batch: tuple[Tensor, Tensor], path: Path
) -> None:
    run = Run(settings, arm="full", seed=5, data=digits, device=CPU)
    record.save_models(path, run)
    loaded = record.load_model(path / "last.safetensors", "digits-cnn", device=CPU)
    assert not loaded.training
    assert torch.equal(loaded(batch[0]), run.model.eval()(batch[0]))


@pytest.mark.parametrize("name", ["mnist-cnn", "digits-cnn-of-another-year"])
def test_a_network_of_another_name_is_refused_even_where_its_layers_would_fit(path: Path, name: str) -> None:
    checkpoint.write(path, models.build("digits-cnn", seed=0).state_dict(), {"model": name})
    with pytest.raises(ValueError, match=rf"^\S+ holds a '{name}', but the protocol's model is 'digits-cnn'[^\n]*$"):
        READERS["model"](path)


def test_a_network_of_that_name_with_other_layers_is_refused(path: Path) -> None:
    checkpoint.write(path, models.build("mnist-cnn", seed=0).state_dict(), {"model": "digits-cnn"})
    refused(READERS["model"], path)
