"""Prepared images, resident on the device as uint8, and the batches drawn from them."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from seladv.seeds import stream

PARTS = ("train", "heldout", "test")


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
        ValueError: fewer than two training images would be left.
    """
    total = len(raw["train_labels"])
    if holdout > total - 2:
        raise ValueError(f"holdout = {holdout}: the training set has only {total} images")
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
        FileNotFoundError, ValueError: no such file, or not one that the data stage wrote; one line each.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: run `dvc repro data-{path.stem}` first")
    try:
        tensors = load_file(path, device=str(device))
        return {part: Images(tensors[f"{part}_images"], tensors[f"{part}_labels"]) for part in PARTS}
    except (SafetensorError, KeyError) as error:
        raise ValueError(
            f"{path} is not a prepared data set ({error}): delete it and run `dvc repro data-{path.stem}`"
        ) from None
