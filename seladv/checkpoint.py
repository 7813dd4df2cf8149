"""Tensors and their JSON in one safetensors file, written whole or not at all."""

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor


def write_bytes(path: Path, content: bytes) -> None:
    """Replace `path` in one move; a kill or a full disk leaves the former file as it was.

    Raises:
        OSError: the disk is full or the folder cannot be written; nothing is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException as error:  # Ctrl-C leaves nothing behind either
        with contextlib.suppress(OSError):
            partial.unlink()
        if not isinstance(error, OSError):
            raise
        raise OSError(error.errno, f"{path} could not be written ({error.strerror}); it is as it was before") from None


def write_json(path: Path, content: Any) -> None:
    """Write `content` as JSON that git can compare line by line; NaN is refused."""
    write_bytes(path, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())


def write(path: Path, tensors: dict[str, Tensor], info: dict[str, Any]) -> None:
    """Write `tensors` and `info` (anything JSON can hold) as one safetensors file."""
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_bytes(path, save(whole, {"info": json.dumps(info)}))


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors, on the CPU, and the info that `write` put into `path`.

    Raises:
        FileNotFoundError, ValueError: no such file, or not a whole file of ours; one line each.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: run the stage that writes it (`dvc repro`)")
    try:
        with safe_open(path, framework="pt") as file:
            info = json.loads((file.metadata() or {})["info"])
            return {name: file.get_tensor(name) for name in file.keys()}, info  # noqa: SIM118 (no mapping)
    except (SafetensorError, KeyError, ValueError) as error:
        raise ValueError(f"{path} is not a checkpoint of this study ({error}); delete it and run again") from None


def key(settings: dict[str, Any], *files: Path) -> str:
    """A short hash of everything that determines a run: its settings and the content of `files`."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for path in files:
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]
