"""Prepared images, uint8, mapped from their file or resident on a GPU; batches; random streams; augmentation."""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import pad

from seladv.study.places import StudyError, write_chunks

PARTS = ("train", "heldout", "test")
RESIDENT = 0.25  # of a GPU's memory: larger data stay on the CPU's side
CHUNK = 4096  # images that are written at a time


def stream(seed: int, purpose: str, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator on `device` that depends on nothing but `seed` and `purpose`.

    Separate streams pair the arms: a criterion that draws random numbers shifts neither the order of the
    batches nor the start of the attack, so two arms with one seed see the same batches.
    """
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:7], "big"))


class Images(NamedTuple):
    """Images [N, C, H, W], uint8, and their classes [N], int64, on the device that batches go to.

    The images are there too, or, where they would fill a GPU, on the CPU. On the CPU they are mapped from their file:
    a batch reads its own images from the disk, and the system's memory is a cache of them.
    """

    images: Tensor
    labels: Tensor

    def pixels(self, index: Tensor) -> Tensor:
        """The images at `index` [B], uint8, on the device of the labels."""
        return self.images[index.to(self.images.device)].to(self.labels.device)

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """The images at `index` [B] as float32 in [0, 1], channels last, and their classes."""
        return to_float(self.pixels(index)), self.labels[index]

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """All images in their order, `size` at a time."""
        for index in torch.arange(len(self.labels), device=self.labels.device).split(size):
            yield self.batch(index)


def to_float(images: Tensor) -> Tensor:
    """uint8 images [B, C, H, W] as float32 in [0, 1], channels last."""
    return images.to(torch.float32, memory_format=torch.channels_last).div_(255)


def split(raw: Mapping[str, Any], *, holdout: int) -> dict[str, Any]:
    """Take `holdout` images out of the training set, the same ones for every run.

    They choose and monitor; the test set must do neither. Training keeps the other images. Of one's own images every
    class is held out in its proportion, a class of one image last; the known data sets are large enough without.

    Args:
        raw: train_images and test_images, tensors [N, C, H, W] or `folders.Pictures`; train_labels and test_labels [N].
        holdout: how many to take out.

    Returns:
        <part>_images, of the same kind, and <part>_labels.

    Raises:
        StudyError: fewer than two training images would be left, or of one's own images none of some class.
    """
    labels = raw["train_labels"]
    total = len(labels)
    if holdout > total - 2:
        raise StudyError(f"holdout = {holdout}: the training set has only {total} images")
    order = torch.randperm(total, generator=stream(0, "holdout"))
    own = not isinstance(raw["train_images"], Tensor)
    if own:
        order = order[_places(labels[order]).argsort(stable=True)]
    parts = {"heldout": order[:holdout].sort().values, "train": order[holdout:].sort().values}
    prepared = {"test_images": raw["test_images"], "test_labels": raw["test_labels"]}
    for part, index in parts.items():
        for kind in ("images", "labels"):
            prepared[f"{part}_{kind}"] = raw[f"train_{kind}"][index]
    if own and (lost := {*labels.tolist()} - {*prepared["train_labels"].tolist()}):
        raise StudyError(f"holdout = {holdout}: it takes all training images of class {min(lost)}; hold out fewer")
    return prepared


def _places(labels: Tensor) -> Tensor:
    """Where each of `labels` [N] stands among those of its class, from 0 to 1."""
    places = torch.zeros(len(labels))
    for label, count in enumerate(labels.bincount().tolist()):
        places[labels == label] = (torch.arange(count) + 0.5) / max(count, 1)
    return places


def write(path: Path, prepared: dict[str, Any], info: dict[str, Any]) -> None:
    """Write what `split` returns as one safetensors file, whole or not at all.

    Pictures are read as they are written, so that memory does not grow with their number.

    Raises:
        StudyError: an image cannot be read, or the file not be written; one line.
    """
    header: dict[str, Any] = {"__metadata__": {"info": json.dumps(info)}}
    names, end = sorted(prepared, key=lambda name: name.endswith("images")), 0  # the wider labels first: aligned
    for name in names:
        kind, width = ("U8", 1) if name.endswith("images") else ("I64", 8)
        shape = [*prepared[name].shape]
        start, end = end, end + width * math.prod(shape)
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    parts = (part for name in names for part in _parts(prepared[name]))
    write_chunks(path, chain([len(text).to_bytes(8, "little"), text], (part.numpy().tobytes() for part in parts)))


def _parts(values: Any) -> Iterable[Tensor]:
    return values.split(CHUNK) if isinstance(values, Tensor) else values


def load(path: Path, *, device: torch.device | str = "cpu") -> dict[str, Images]:
    """Open a file that the data stage prepared: `train`, `heldout` and `test`, whose batches come to `device`.

    On a CPU nothing is read before it is used. A GPU holds them, unless they take more than a quarter of its memory.

    Raises:
        StudyError: no such file, or not one that the data stage wrote.
    """
    if not path.exists():
        raise StudyError(f"{path} does not exist: run `dvc repro data-{path.stem}` first")
    try:
        tensors = load_file(path)  # which maps the file
        there = torch.device(device)
        home = there if _fits(path.stat().st_size, there) else torch.device("cpu")
        return {part: Images(tensors[f"{part}_images"].to(home), tensors[f"{part}_labels"].to(there)) for part in PARTS}
    except (SafetensorError, KeyError) as error:
        raise StudyError(
            f"{path} is not a prepared data set ({error}): delete it and run `dvc repro data-{path.stem}`"
        ) from None


def _fits(size: int, device: torch.device) -> bool:
    """Whether data of `size` bytes are to be held by `device`."""
    if device.type != "cuda":
        return True
    total: int = torch.cuda.get_device_properties(device).total_memory
    return size <= RESIDENT * total


def crop_and_flip(images: Tensor, *, crop: int, flip: bool, generator: torch.Generator) -> Tensor:
    """Each image shifted by up to `crop` pixels each way, its border filled with black, and half of them mirrored.

    One gather for the batch. The draws come from `generator` on the CPU, so every device sees the same images.

    Args:
        images: [B, C, H, W], any type.
        crop: most pixels to shift by; 0 leaves images where they are.
        flip: whether to mirror left and right, each image with probability ½.
    """
    count, _, height, width = images.shape
    top, left = torch.randint(2 * crop + 1, (2, count, 1), generator=generator)
    mirrored = torch.randint(2, (count, 1), generator=generator).bool() & flip
    rows = torch.arange(height) + top
    columns = torch.where(mirrored, torch.arange(width).flip(0), torch.arange(width)) + left
    which, rows, columns = (
        index.to(images.device, non_blocking=True)
        for index in (torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :])
    )
    padded = pad(images, (crop, crop, crop, crop)).permute(0, 2, 3, 1)
    return padded[which, rows, columns].permute(0, 3, 1, 2)
