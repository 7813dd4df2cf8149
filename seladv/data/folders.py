"""Images of one's own: a folder for each class, in torchvision's ImageFolder layout."""

from pathlib import Path

import torch
from torch import Tensor
from torchvision.datasets import ImageFolder
from torchvision.transforms.v2 import CenterCrop, Compose, PILToTensor, Resize

from seladv.data.files import DataError


def raw(folder: Path, *, size: int) -> dict[str, Tensor]:
    """The images in `folder`/train/<class> and `folder`/test/<class>, in colour, brought to `size` × `size` pixels.

    The shorter side is scaled to `size` and the middle of the longer one kept. All of them are held in memory.

    Returns:
        train_images and test_images, uint8 [N, 3, size, size]; train_labels and test_labels, int64 [N], the classes
        numbered in the order of their names.

    Raises:
        DataError: a folder is missing or empty, the two parts have other classes, or a file is no image; one line.
    """
    transform = Compose([Resize(size), CenterCrop(size), PILToTensor()])
    parts: dict[str, ImageFolder] = {}
    for part in ("train", "test"):
        try:
            parts[part] = ImageFolder(folder / part, transform=transform)
        except FileNotFoundError as error:
            reason = " ".join(str(error).split())
            raise DataError(f"{folder / part}: a folder of images for each class is needed there ({reason})") from None
    if parts["train"].classes != parts["test"].classes:
        odd = sorted({*parts["train"].classes} ^ {*parts["test"].classes})
        raise DataError(f"{folder}: train and test must hold the same classes; {odd[0]} is only in one of them")
    tensors = {}
    for part, data in parts.items():
        tensors[f"{part}_images"] = torch.stack([_read(data, index) for index in range(len(data))])
        tensors[f"{part}_labels"] = torch.tensor(data.targets)
    return tensors


def _read(data: ImageFolder, index: int) -> Tensor:
    try:
        image: Tensor = data[index][0]
    except OSError as error:
        raise DataError(f"{data.samples[index][0]} is not a whole image ({error}): replace it or take it out") from None
    return image
