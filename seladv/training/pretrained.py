"""Weights from a file as the start of training: adversarial fine-tuning."""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from seladv.study.places import StudyError

WRAPPERS = ("module.", "_orig_mod.")  # what DataParallel and torch.compile put before every name
NESTED = ("state_dict", "model")  # where a checkpoint keeps its state dict


def read_into(model: nn.Module, path: Path, *, classes: int) -> str:
    """Put the weights in `path` into `model`; a head for another number of classes stays as it was initialised.

    Args:
        model: a network of `models.build`. The file names its weights as this network does, or as torchvision and timm
            do: without the normalisation in front.
        path: safetensors, or a state dict that torch.load reads with weights_only=True.
        classes: how many logits the network has; it tells the head.

    Returns:
        One line: what was read, and what was not.

    Raises:
        StudyError: no such file, no state dict, or other weights than the network's; one line names them.
    """
    mine, theirs = model.state_dict(), _read(path)
    if isinstance(model, nn.Sequential) and not mine.keys() & theirs.keys():
        theirs = {f"1.{name}": value for name, value in theirs.items()}
    head = _head(model, classes)
    fresh = sorted(name for name in head if name not in theirs or _resized(mine[name], theirs[name]))
    wrong = [f"{name} is missing" for name in mine if name not in theirs and not _may_lack(name, head)]
    wrong += [f"{name} is unknown" for name in theirs if name not in mine]
    wrong += [
        f"{name} is {[*theirs[name].shape]} instead of {[*value.shape]}"
        for name, value in mine.items()
        if name in theirs and name not in fresh and value.shape != theirs[name].shape
    ]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise StudyError(f"{path} does not fit the network: {', '.join(wrong[:3])}{more}; name the model that it is of")
    kept = {name: value for name, value in theirs.items() if name not in fresh}
    model.load_state_dict(mine | kept)
    said = f"; the head ({', '.join(fresh)}) starts fresh, for {classes} classes" if fresh else ", the head included"
    return f"weights: {path.name}, {len(kept)} of {len(mine)} tensors{said}"


def _head(model: nn.Module, classes: int) -> set[str]:
    """Names of the weights of the last layer that has as many outputs as there are classes."""
    layers = [(name, each) for name, each in model.named_modules() if isinstance(each, nn.Linear | nn.Conv2d)]
    last = [name for name, layer in layers if layer.weight.shape[0] == classes][-1:]
    return {name for name in model.state_dict() if name.rpartition(".")[0] in last}


def _resized(mine: Tensor, theirs: Tensor) -> bool:
    """Whether two weights of a head differ in the number of classes alone."""
    return mine.shape != theirs.shape and mine.shape[1:] == theirs.shape[1:]


def _may_lack(name: str, head: set[str]) -> bool:
    return name in head or name.endswith("num_batches_tracked")


def _read(path: Path) -> dict[str, Tensor]:
    """The state dict in `path`, by plain names."""
    if not path.is_file():
        raise StudyError(f"weights = {str(path)!r}: there is no such file; name one, or take the key out")
    try:
        found: Any = load_file(path) if path.suffix == ".safetensors" else _torch(path)
    except SafetensorError as error:
        raise StudyError(f"{path} is not a safetensors file ({error})") from None
    found = next((found[key] for key in NESTED if isinstance(found, dict) and isinstance(found.get(key), dict)), found)
    if not isinstance(found, dict) or not found or not all(isinstance(value, Tensor) for value in found.values()):
        raise StudyError(f"{path} holds no state dict: a mapping of names to tensors is needed")
    for wrapper in WRAPPERS:
        if all(name.startswith(wrapper) for name in found):
            found = {name.removeprefix(wrapper): value for name, value in found.items()}
    return found


def _torch(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # zipfile, pickle and torch raise many kinds
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise StudyError(f"{path} is no state dict that torch.load reads with weights_only=True ({reason})") from None
