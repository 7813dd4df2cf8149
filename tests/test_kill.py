"""A process that is really killed, during a step or a write, loses at most the epoch that it had not saved."""

import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from seladv.data import images
from seladv.data.images import Images
from seladv.training import checkpoint, train

# Its processes start quickly and inherit none of this one's threads.
CONTEXT = multiprocessing.get_context("forkserver" if hasattr(os, "fork") else "spawn")
CONTEXT.set_forkserver_preload(["seladv.training.train", "torch._dynamo"])  # which an optimiser imports


def study(folder: Path, settings: dict[str, Any], event: str = "", moment: int = 0, how: int = signal.SIGKILL) -> None:
    """Trains and writes its networks; or sends itself `how` in its `moment`-th attack or write of a file."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    left = iter(range(moment - 1, -1, -1))

    def deadly(function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if next(left, None) == 0:
                os.kill(os.getpid(), how)
            return function(*args, **kwargs)

        return wrapped

    if event == "attack":
        train.pgd = deadly(train.pgd)
    if event == "write":
        os.fsync = deadly(os.fsync)
    parts, saved = images.load(folder / "data"), folder / "state" / "run.pt"
    cpu = torch.device("cpu")
    run = train.train(settings, arm="random-50", seed=0, data=parts, device=cpu, saved=saved, report=lambda line: None)
    networks = {"last": run.model.state_dict(), **run.kept}
    checkpoint.save_networks(folder / "models", networks, model=settings["model"], classes=run.classes)


def end(folder: Path, *args: Any) -> int | None:
    """How the process that runs `study` ended."""
    process = CONTEXT.Process(target=study, args=(folder, *args))
    process.start()
    process.join()
    return process.exitcode


@pytest.fixture
def folder(tmp_path: Path, digits: dict[str, Images]) -> Path:
    parts = {f"{part}_images": tensors.images for part, tensors in digits.items()}
    labels = {f"{part}_labels": tensors.labels for part, tensors in digits.items()}
    checkpoint.write(tmp_path / "data", parts | labels, {})
    return tmp_path


def networks(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "models").glob("*.safetensors")}


def undisturbed(folder: Path, settings: dict[str, Any]) -> dict[str, bytes]:
    """The networks of a run that nothing stops; its files are removed."""
    assert end(folder, settings) == 0
    expected = networks(folder)
    assert {"last.safetensors", "best.safetensors", "middle.safetensors"} == set(expected)
    shutil.rmtree(folder / "models")
    shutil.rmtree(folder / "state")
    return expected


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL")
def test_ten_kills_change_no_byte(folder: Path, settings: dict[str, Any]) -> None:
    settings |= {"epochs": 3, "steps": 1}  # 5 attacks and a write an epoch, then three networks
    expected = undisturbed(folder, settings)
    written = [  # what a process is killed in, and how many epochs and networks it leaves
        (("attack", 4), 0, 0), (("write", 1), 0, 0), (("attack", 7), 1, 0), (("write", 1), 1, 0), (("attack", 1), 1, 0),
        (("attack", 10), 2, 0), (("attack", 3), 2, 0), (("write", 2), 3, 0), (("write", 1), 3, 0), (("write", 2), 3, 1),
    ]  # fmt: skip
    for (event, moment), epochs, whole in written:
        assert end(folder, settings, event, moment) == -signal.SIGKILL
        state = folder / "state" / "run.pt"
        assert epochs == (len(checkpoint.load_state(state)["history"]) if state.exists() else 0)
        assert len(networks(folder)) == whole
        assert networks(folder).items() <= expected.items()
    assert end(folder, settings) == 0
    assert networks(folder) == expected


@pytest.mark.parametrize("event", [("attack", 8), ("write", 2)])
def test_ctrl_c_is_no_worse_than_a_kill(folder: Path, settings: dict[str, Any], event: tuple[str, int]) -> None:
    expected = undisturbed(folder, settings)
    assert end(folder, settings, *event, signal.SIGINT) == 1
    assert not networks(folder)
    assert [path.name for path in (folder / "state").iterdir()] == ["run.pt"]  # whole, and no partial file
    assert end(folder, settings) == 0
    assert networks(folder) == expected
