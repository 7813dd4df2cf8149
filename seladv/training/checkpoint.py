"""Files of a run: its networks as safetensors, the state that a killed run resumes from, and their names."""

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from seladv.study.places import StudyError, write_bytes
from seladv.training import models


def write(path: Path, tensors: dict[str, Tensor], info: dict[str, Any]) -> None:
    """Write `tensors` and `info` (anything JSON can hold) as one safetensors file, whole or not at all."""
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_bytes(path, save(whole, {"info": json.dumps(info)}))


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors, on the CPU, and the info that `write` put into `path`.

    Raises:
        StudyError: no such file, or not a whole file of ours.
    """
    if not path.exists():
        raise StudyError(f"{path} does not exist: run the stage that writes it (`dvc repro`)")
    try:
        with safe_open(path, framework="pt") as file:
            info = json.loads((file.metadata() or {})["info"])
            return {name: file.get_tensor(name) for name in file.keys()}, info  # noqa: SIM118 (no mapping)
    except (SafetensorError, KeyError, ValueError) as error:
        raise StudyError(f"{path} is not a checkpoint of this study ({error}); delete it and run again") from None


def save_networks(
    folder: Path, networks: dict[str, dict[str, Tensor]], *, model: str, classes: int, size: int | None = None
) -> None:
    """Write each network's weights (name → state dict) with what the network is built by: see `models.build`."""
    for name, weights in networks.items():
        write(folder / f"{name}.safetensors", weights, {"model": model, "classes": classes, "size": size})


def load_network(path: Path, name: str, *, device: torch.device) -> nn.Module:
    """The network in `path`, in eval mode on `device`.

    Raises:
        StudyError: no such file, not a whole one, or of another network than `name`.
    """
    weights, info = read(path)
    if info.get("model") != name:
        raise StudyError(f"{path} holds a {info.get('model')!r}, but the protocol's model is {name!r}: train again")
    model = models.build(name, seed=0, classes=info.get("classes", 10), size=info.get("size"), device=device)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise StudyError(f"{path} does not fit the network {name!r}: {reason}; train again") from None
    return model.eval()


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write a run's state in one move."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_bytes(path, buffer.getvalue())


def load_state(path: Path) -> dict[str, Any]:
    """What `save_state` wrote, on the CPU; no code in it is run.

    Raises:
        StudyError: the file is not a saved state.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # zipfile, pickle and torch raise many kinds
        reason = str(error).split("\n")[0]
        raise StudyError(f"{path} is not a saved state ({reason}); delete it and run again") from None
    return state


def key(settings: dict[str, Any], code: str, *files: Path) -> str:
    """A short hash of all that determines a result: settings, a digest of the code, the content of `files`."""
    digest = hashlib.sha256(json.dumps([settings, code], sort_keys=True).encode())
    for path in files:
        with path.open("rb") as file:  # the data may be larger than memory
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]
