"""A process that is really killed, in the midst of a step or of a write, costs no more than what it had not saved."""

import multiprocessing
import os
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from seladv import checkpoint, data, record, train
from seladv.data import Images

# Its processes start in a moment, and none inherits this one's threads.
CONTEXT = multiprocessing.get_context("forkserver" if hasattr(os, "fork") else "spawn")
CONTEXT.set_forkserver_preload(["seladv.train"])


def study(folder: Path, settings: dict[str, Any], event: str = "", moment: int = 0, how: int = signal.SIGKILL) -> None:
    """Trains and writes its models; or sends itself `how` in its `moment`-th attack or write of the state."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background job is born without
    train.SAVE_EVERY = -1.0  # after every batch
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
    parts, saved = data.load(folder / "data"), folder / "state" / "run"
    cpu = torch.device("cpu")
    run = train.train(settings, arm="random-50", seed=0, data=parts, device=cpu, saved=saved, report=lambda line: None)
    record.save_models(folder / "models", run)


def end(folder: Path, *args: Any) -> int | None:
    """How the process that runs `study` ended."""
    process = CONTEXT.Process(target=study, args=(folder, *args))
    process.start()
    process.join()
    return process.exitcode


@pytest.fixture
def folder(tmp_path: Path, digits: dict[str, Images]) -> Path:
    images = {f"{part}_images": tensors.images for part, tensors in digits.items()}
    labels = {f"{part}_labels": tensors.labels for part, tensors in digits.items()}
    checkpoint.write(tmp_path / "data", images | labels, {})
    return tmp_path


def models(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "models").glob("*.safetensors")}


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL")
def test_a_run_killed_at_ten_moments_ends_with_the_same_bytes(folder: Path, settings: dict[str, Any]) -> None:
    settings |= {"batch_size": 10, "steps": 1}  # 15 batches an epoch: 30 attacks and 32 writes in all
    assert end(folder, settings) == 0
    expected = models(folder)
    assert {"last.safetensors", "best.safetensors", "middle.safetensors"} == set(expected)
    shutil.rmtree(folder / "models")
    shutil.rmtree(folder / "state")
    draw = random.Random(0)
    for event in draw.sample(["write", "attack"] * 5, 10):
        assert end(folder, settings, event, draw.randint(1, 3)) == -signal.SIGKILL
        assert not models(folder)
    assert end(folder, settings) == 0
    assert models(folder) == expected


@pytest.mark.parametrize("event", ["attack", "write"])
def test_ctrl_c_costs_no_more_than_a_kill(folder: Path, settings: dict[str, Any], event: str) -> None:
    assert end(folder, settings) == 0
    expected = models(folder)
    shutil.rmtree(folder / "models")
    shutil.rmtree(folder / "state")
    assert end(folder, settings, event, 3, signal.SIGINT) == 1
    assert not models(folder)
    assert len(list((folder / "state").iterdir())) == 1  # the state, whole, and no half-written one beside it
    assert end(folder, settings) == 0
    assert models(folder) == expected
