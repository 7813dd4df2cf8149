"""Prepared images, resident on the device as uint8; the batches drawn from them; random streams; augmentation."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import pad

from seladv.study.places import StudyError

PARTS = ("train", "heldout", "test")


def stream(seed: int, purpose: str, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator on `device` that depends on nothing but `seed` and `purpose`.

    Separate streams pair the arms: a criterion that draws random numbers shifts neither the order of the
    batches nor the start of the attack, so two arms with one seed see the same batches.
    """
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:7], "big"))


class Images(NamedTuple):
    """Images [N, C, H, W], uint8, and their classes [N], int64, on one device."""

    images: Tensor
    labels: Tensor

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """The images at `index` as float32 in [0, 1], channels last, and their classes."""
        return to_float(self.images[index]), self.labels[index]

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """All images in their order, `size` at a time."""
        for index in torch.arange(len(self.labels), device=self.labels.device).split(size):
            yield self.batch(index)


def to_float(images: Tensor) -> Tensor:
    """uint8 images [B, C, H, W] as float32 in [0, 1], channels last."""
    return images.to(torch.float32, memory_format=torch.channels_last).div_(255)


def split(raw: dict[str, Tensor], *, holdout: int) -> dict[str, Tensor]:
    """Take `holdout` images out of the training set, the same ones for every run.

    They choose and monitor; the test set must do neither. Training keeps the other images.

    Raises:
        StudyError: fewer than two training images would be left.
    """
    total = len(raw["train_labels"])
    if holdout > total - 2:
        raise StudyError(f"holdout = {holdout}: the training set has only {total} images")
    order = torch.randperm(total, generator=stream(0, "holdout"))
    parts = {"heldout": order[:holdout].sort().values, "train": order[holdout:].sort().values}
    prepared = {"test_images": raw["test_images"], "test_labels": raw["test_labels"]}
    for part, index in parts.items():
        for kind in ("images", "labels"):
            prepared[f"{part}_{kind}"] = raw[f"train_{kind}"][index].contiguous()
    return prepared


def load(path: Path, *, device: torch.device | str = "cpu") -> dict[str, Images]:
    """Read a file that the data stage prepared: `train`, `heldout` and `test`, on `device`.

    Raises:
        StudyError: no such file, or not one that the data stage wrote.
    """
    if not path.exists():
        raise StudyError(f"{path} does not exist: run `dvc repro data-{path.stem}` first")
    try:
        tensors = load_file(path, device=str(device))
        return {part: Images(tensors[f"{part}_images"], tensors[f"{part}_labels"]) for part in PARTS}
    except (SafetensorError, KeyError) as error:
        raise StudyError(
            f"{path} is not a prepared data set ({error}): delete it and run `dvc repro data-{path.stem}`"
        ) from None


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
