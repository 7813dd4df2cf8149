"""Images of one's own: a folder for each class, in torchvision's ImageFolder layout, read one at a time."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from seladv.study.places import StudyError

# What Pillow raises for damaged files, by what the file pretends to be.
DAMAGED = (OSError, SyntaxError, ValueError, TypeError, IndexError, KeyError, EOFError, MemoryError, OverflowError)


@dataclass(frozen=True)
class Pictures:
    """Image files that are read as they are iterated, uint8 [3, size, size] each: never all in memory."""

    files: list[Path]
    size: int

    @property
    def shape(self) -> tuple[int, ...]:
        """As the tensor of all images would have it: [N, 3, size, size]."""
        return len(self.files), 3, self.size, self.size

    def __getitem__(self, index: Tensor) -> "Pictures":
        """Those at `index` [n], in its order, as of a tensor of images."""
        return Pictures([self.files[i] for i in index.tolist()], self.size)

    def __iter__(self) -> Iterator[Tensor]:
        """Reads them, one after the other; a StudyError of one line names the file that it cannot read."""
        return (_read(file, self.size) for file in self.files)


def raw(folder: Path, *, size: int) -> dict[str, Pictures | Tensor]:
    """The images in `folder`/train/<class> and `folder`/test/<class>, in colour, brought to `size` × `size` pixels.

    Every format that Pillow reads, turned upright as the camera's EXIF orientation says. The shorter side is scaled to
    `size` and the middle of the longer one kept. Hidden files and folders, and files of other kinds, are left out.

    Returns:
        train_images and test_images, not read yet; train_labels and test_labels, int64 [N], the classes numbered in
        the order of their names. The images are in the order of their classes.

    Raises:
        StudyError: a folder is missing or empty, or the two parts have other classes; one line.
    """
    parts = {part: _classes(folder / part) for part in ("train", "test")}
    if odd := sorted(parts["train"].keys() ^ parts["test"].keys()):
        raise StudyError(f"{folder}: train and test must hold the same classes; {odd[0]} is only in one of them")
    found: dict[str, Pictures | Tensor] = {}
    for part, classes in parts.items():
        found[f"{part}_images"] = Pictures([file for files in classes.values() for file in files], size)
        counts = torch.tensor([len(files) for files in classes.values()])
        found[f"{part}_labels"] = torch.arange(len(classes)).repeat_interleave(counts)
    return found


def _classes(folder: Path) -> dict[str, list[Path]]:
    """The image files of each class, in the order of their names."""
    needed = f"{folder}: a folder of images for each class is needed there"
    if not folder.is_dir():
        raise StudyError(f"{needed}; there is no such folder")
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if len(names) < 2:
        raise StudyError(f"{needed}, two classes at least; found: {', '.join(names) or 'none'}")
    Image.init()
    suffixes = {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    classes = {name: _images(folder / name, suffixes) for name in names}
    if empty := [name for name, files in classes.items() if not files]:
        raise StudyError(f"{folder / empty[0]} holds no image: add some, or take the folder out")
    return classes


def _images(folder: Path, suffixes: set[str]) -> list[Path]:
    """All image files below `folder`."""
    files = []
    for here, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        files += [Path(here, name) for name in names if not name.startswith(".")]
    return sorted(file for file in files if file.suffix.lower() in suffixes)


def _read(file: Path, size: int) -> Tensor:
    """One image, uint8 [3, size, size]."""
    try:
        with Image.open(file) as image:
            image.load()
            if image.mode.startswith(("I", "F")):  # which Pillow would clip at 255
                raise StudyError(f"{file} has more than 8 bits for a grey value: convert it to 8 bits or take it out")
            upright = ImageOps.exif_transpose(image).convert("RGB")
            square = ImageOps.fit(upright, (size, size), Image.Resampling.BILINEAR)
            return torch.from_numpy(np.array(square)).permute(2, 0, 1)
    except Image.DecompressionBombError as error:
        raise StudyError(f"{file} is too large to be opened ({error}): scale it down or take it out") from None
    except DAMAGED as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise StudyError(f"{file} is not a whole image ({reason}): replace it or take it out") from None
