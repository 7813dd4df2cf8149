"""A folder of one's own images: reading it, training on it, and what is refused."""

import re
import shutil
import struct
import warnings
import zlib
from collections.abc import Callable
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor

from seladv.data import folders, images
from seladv.data.images import Images
from seladv.report import plots
from seladv.study import params
from seladv.study.places import StudyError
from seladv.study.protocol import Protocol
from seladv.training.train import train

COLOURS = {"blue": (10, 20, 230), "red": (240, 30, 20), "yellow": (250, 240, 30)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Plain pictures of three colours, of several shapes and file types; fewer in test."""
    for part, count in (("train", 8), ("test", 2)):
        for name, colour in COLOURS.items():
            (tmp_path / part / name).mkdir(parents=True)
            for number in range(count):
                image = Image.new("RGB", (20 + 4 * number, 30), colour)
                image.save(tmp_path / part / name / f"{number}.{'png' if number % 2 else 'bmp'}")
    return tmp_path


def pixels(pictures: Any) -> Tensor:
    """All of them, read."""
    return torch.stack([*pictures])


def prepared(folder: Path, *, holdout: int, size: int = 16) -> dict[str, Images]:
    """As the data stage prepares them."""
    target = folder / "prepared" / "own.safetensors"
    images.write(target, images.split(folders.raw(folder, size=size), holdout=holdout), {})
    return images.load(target)


def test_raw(folder: Path) -> None:
    raw = folders.raw(folder, size=16)
    assert raw["train_images"].shape == (24, 3, 16, 16)
    assert raw["test_images"].shape == (6, 3, 16, 16)
    assert raw["train_labels"].bincount().tolist() == [8, 8, 8]
    colours = torch.tensor(list(COLOURS.values()))  # the names are in order
    for part in ("train", "test"):
        read = pixels(raw[f"{part}_images"])
        assert read.dtype == torch.uint8
        assert torch.equal(read[:, :, 8, 8].long(), colours[raw[f"{part}_labels"]])


def test_prepared_file(folder: Path) -> None:
    """The parts of the file are the split's, image by image, and every class is in each of them."""
    parts = prepared(folder, holdout=6)
    colours = torch.tensor(list(COLOURS.values()))
    assert {part: len(data.labels) for part, data in parts.items()} == {"train": 18, "heldout": 6, "test": 6}
    for data in parts.values():
        assert torch.equal(data.images[:, :, 8, 8].long(), colours[data.labels])
        assert (data.labels.bincount() == len(data.labels) // 3).all()


def test_file_is_mapped(folder: Path) -> None:
    parts = prepared(folder, holdout=4)
    mapped = Path("/proc/self/maps")
    if not mapped.exists():
        pytest.skip("only Linux lists what a process maps")
    assert str(folder / "prepared" / "own.safetensors") in mapped.read_text()
    assert all(data.labels.data_ptr() % 8 == 0 for data in parts.values())


def test_nothing_is_left_of_a_broken_one(folder: Path) -> None:
    (folder / "train" / "red" / "5.png").write_bytes(b"no image")
    with pytest.raises(StudyError, match=r"5\.png is not a whole image"):
        prepared(folder, holdout=4)
    assert not [*(folder / "prepared").iterdir()]


def test_rare_classes_stay_in_training(folder: Path) -> None:
    for file in [*(folder / "train" / "blue").iterdir()][1:]:
        file.unlink()
    for holdout in range(1, 9):
        parts = images.split(folders.raw(folder, size=16), holdout=holdout)
        assert 0 in parts["train_labels"]


def test_class_of_held_out_images_alone(folder: Path) -> None:
    for file in (file for colour in COLOURS for file in [*(folder / "train" / colour).iterdir()][1:]):
        file.unlink()
    with pytest.raises(StudyError, match=r"^holdout = 1: it takes all training images of class \d; hold out fewer$"):
        images.split(folders.raw(folder, size=16), holdout=1)


def test_centre_crop_of_grey(folder: Path) -> None:
    image = Image.new("L", (64, 32), 255)
    image.paste(0, (16, 0, 48, 32))
    image.save(folder / "test" / "blue" / "0.bmp")
    assert pixels(folders.raw(folder, size=32)["test_images"])[0].max() == 0


# ---- what a camera, a phone, a notebook and a file manager leave behind

HALVES = Image.new("RGB", (40, 20), (255, 0, 0))
HALVES.paste((0, 0, 255), (20, 0, 40, 20))
UPRIGHT = {  # EXIF orientation → red is at the top left, and blue where, after centre crop to a square
    1: "left", 2: "right", 3: "right", 6: "top", 8: "bottom",
}  # fmt: skip


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("kind", ["jpg", "png", "webp"])
def test_upright(folder: Path, kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    HALVES.save(folder / "test" / "blue" / f"00.{kind}", exif=exif)
    image = pixels(folders.raw(folder, size=16)["test_images"])[1].float()  # after 0.bmp, by name
    red = {"left": image[0, :, :4], "right": image[0, :, -4:], "top": image[0, :4], "bottom": image[0, -4:]}
    assert red[UPRIGHT[orientation]].mean() > 200
    assert sum(side.mean() > 200 for side in red.values()) == 1


KINDS = ["gif", "avif", "jp2", "tga", "ico", "ppm", "tiff", "webp", "PNG", "jpeg", "dds", "pcx"]


@pytest.mark.parametrize("kind", KINDS)
def test_formats(folder: Path, kind: str) -> None:
    Image.new("RGB", (32, 32), COLOURS["blue"]).save(folder / "test" / "blue" / f"other.{kind}")
    assert len(folders.raw(folder, size=16)["test_images"].files) == 7
    assert pixels(folders.raw(folder, size=16)["test_images"])[2, 2].float().mean() > 200


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr"])
def test_modes(folder: Path, mode: str) -> None:
    Image.new("RGB", (32, 32), (255, 255, 255)).convert(mode).save(folder / "test" / "blue" / "0.tiff")
    assert pixels(folders.raw(folder, size=16)["test_images"])[1].min() > 250


@pytest.mark.parametrize("clutter", [
    "train/.ipynb_checkpoints/0.png", "test/.ipynb_checkpoints/0.png", "train/blue/.hidden/1.png",
    "train/blue/._0.png", "train/blue/.DS_Store", "train/Thumbs.db", "train/readme.txt", "train/blue/labels.csv",
    ".git/x.png", "train/.cache/blue/0.png", "train/red/notes.md", "train/red/0.png.part",
])  # fmt: skip
def test_clutter_is_left_out(folder: Path, clutter: str) -> None:
    (folder / clutter).parent.mkdir(parents=True, exist_ok=True)
    HALVES.save(folder / clutter, format="png")
    raw = folders.raw(folder, size=16)
    assert (len(raw["train_labels"]), len(raw["test_labels"])) == (24, 6)


def test_folders_in_a_class(folder: Path) -> None:
    (folder / "train" / "blue" / "june").mkdir()
    HALVES.save(folder / "train" / "blue" / "june" / "1.png")
    assert folders.raw(folder, size=16)["train_labels"].bincount().tolist() == [9, 8, 8]


def deep(mode: str) -> Image.Image:
    kinds = {"I;16": "uint16", "I": "int32", "F": "float32"}
    return Image.fromarray((1000 * np.arange(64).reshape(8, 8)).astype(kinds[mode]))


@pytest.mark.parametrize(("mode", "kind"), [("I;16", "png"), ("I;16", "tiff"), ("I", "tiff"), ("F", "tiff")])
def test_deep_grey_is_refused(folder: Path, mode: str, kind: str) -> None:
    deep(mode).save(folder / "test" / "blue" / f"deep.{kind}")
    with pytest.raises(StudyError, match=rf"^[^\n]*deep\.{kind} has more than 8 bits for a grey value: [^\n]*$"):
        pixels(folders.raw(folder, size=16)["test_images"])


def bomb(file: Path) -> None:
    """A PNG of 30,000 × 30,000 pixels, by its header."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 30000, 30000, 8, 2, 0, 0, 0)
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b""))


DAMAGE: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "empty": ("0.png", lambda file: file.write_bytes(b"")),
    "text": ("1.png", lambda file: file.write_text("no image")),
    "cut": ("2.jpg", lambda file: (HALVES.save(file), file.write_bytes(file.read_bytes()[:300]))),
    "a number that is none": ("3.ppm", lambda file: file.write_bytes(b"P3 8 8 255 " + b"x1 " * 192)),
    "a bomb": ("4.png", bomb),
    "an HDF5": ("5.h5", lambda file: file.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(64))),
    "cut gif": ("6.gif", lambda file: (HALVES.save(file), file.write_bytes(file.read_bytes()[:40]))),
    "huge ppm": ("7.ppm", lambda file: file.write_bytes(b"P6 99999 99999 255 ")),
    "tiff of one tag": ("8.tiff", lambda file: file.write_bytes(b"II*\0\x08\0\0\0\x01\0\0\x01\x03\0")),
    "folder's link": ("9.png", lambda file: file.symlink_to("nowhere.png")),
}  # fmt: skip


@pytest.mark.parametrize(("name", "damage"), DAMAGE.values(), ids=DAMAGE)
def test_damaged_files_by_name(folder: Path, name: str, damage: Callable[[Path], Any]) -> None:
    file = folder / "test" / "blue" / f"x{name}"
    damage(file)
    with pytest.raises(StudyError, match=rf"^{re.escape(str(file))} is (not a whole image|too large)[^\n]*$"):
        pixels(folders.raw(folder, size=16)["test_images"])


@pytest.mark.parametrize("kind", ["png", "jpg", "gif", "tiff", "webp", "ppm", "bmp", "tga", "jp2"])
def test_random_damage(folder: Path, kind: str) -> None:
    """Thirty files a format, each with some bytes changed or cut off: read, or refused by name."""
    file = folder / "test" / "blue" / f"x.{kind}"
    HALVES.save(file)
    whole, random = file.read_bytes(), np.random.default_rng(0)
    for turn in range(30):
        damaged = bytearray(whole[: random.integers(1, len(whole))] if turn % 3 == 0 else whole)
        for place in random.integers(0, len(damaged), 4):
            damaged[place] = random.integers(256)
        file.write_bytes(damaged)
        with suppress(StudyError):  # any other error fails the test
            pixels(folders.raw(folder, size=16)["test_images"])


# ---- a protocol on them


def study(folder: Path, root: Path, **changes: Any) -> Protocol:
    section = params.read(root / "params.yaml")["cifar10-small"] | {"data": {"folder": str(folder), "size": 16}}
    section |= {"holdout": 4, "epochs": 1, "batch_size": 8, "steps": 1, "precision": "fp32", "arms": ["full"]} | changes
    return Protocol.model_validate(section)


def test_training(folder: Path, root: Path) -> None:
    protocol = study(folder, root)
    parts = prepared(folder, holdout=protocol.holdout)
    run = train(protocol.training(), arm="full", seed=0, data=parts, device=torch.device("cpu"))
    assert run.model(parts["test"].batch(torch.arange(2))[0]).shape == (2, 3)


def break_train(folder: Path) -> None:
    (folder / "train").rename(folder / "training")


def break_empty(folder: Path) -> None:
    for file in (folder / "test" / "red").iterdir():
        file.unlink()


def break_one(folder: Path) -> None:
    for part, name in product(("train", "test"), ("blue", "red")):
        shutil.rmtree(folder / part / name)


def break_classes(folder: Path) -> None:
    (folder / "test" / "red").rename(folder / "test" / "green")


@pytest.mark.parametrize(
    ("breaking", "line"),
    [(break_train, r"train: a folder of images for each class is needed"),
     (break_classes, r"the same classes; green is"), (break_empty, r"test/red holds no image"),
     (break_one, r"two classes at least; found: yellow")],
)  # fmt: skip
def test_broken_folder(folder: Path, breaking: Any, line: str) -> None:
    breaking(folder)
    with pytest.raises(StudyError, match=rf"^[^\n]*{line}[^\n]*$"):
        folders.raw(folder, size=16)


@pytest.mark.parametrize(
    ("changes", "line"),
    [({"data": {"folder": "x"}}, "size"), ({"data": {"folder": "x", "size": 4}}, "greater than or equal to 8"),
     ({"data": {"folder": "x", "size": 16, "classes": 3}}, "unknown key; allowed: folder, size"),
     ({"data": "cifar100"}, "'digits', 'mnist' or 'cifar10'"),
     ({"model": "mnist-cnn"}, "does not fit the data; allowed: resnet18, resnet18-narrow"),
     ({"weights": ""}, "at least 1 character"), ({"weights": 3}, "valid string")],
)  # fmt: skip
def test_wrong_section(tmp_path: Path, root: Path, changes: Any, line: str) -> None:
    section = params.read(root / "params.yaml")["cifar10-small"] | {"data": {"folder": "x", "size": 16}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"own": section | changes}))
    with pytest.raises(params.StudyError, match=rf"^[^\n]*{line}[^\n]*$"):
        params.load(tmp_path / "params.yaml", "own")


@pytest.mark.parametrize("count", [1, 2, 5, 12])
def test_figure_has_room(tmp_path: Path, count: int) -> None:
    """Two classes are few images for the long names on their left."""
    rows = {name: torch.rand(count, 3, 8, 8) for name in ("clean", "noise of size 0.0314")}
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        plots.save(plots.images(rows, titles=range(count)), tmp_path / "images.png")
