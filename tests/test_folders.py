"""A folder of one's own images: reading it, training on it, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor

from seladv.data import folders, images
from seladv.data.files import DataError
from seladv.data.images import Images
from seladv.study import params
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


def test_raw(folder: Path) -> None:
    raw = folders.raw(folder, size=16)
    assert raw["train_images"].shape == (24, 3, 16, 16)
    assert raw["test_images"].shape == (6, 3, 16, 16)
    assert raw["train_images"].dtype == torch.uint8
    assert raw["train_labels"].bincount().tolist() == [8, 8, 8]
    colours = torch.tensor(list(COLOURS.values()))  # the names are in order
    for part in ("train", "test"):
        assert torch.equal(raw[f"{part}_images"][:, :, 8, 8].long(), colours[raw[f"{part}_labels"]])


def test_centre_crop_of_grey(folder: Path) -> None:
    image = Image.new("L", (64, 32), 255)
    image.paste(0, (16, 0, 48, 32))
    image.save(folder / "test" / "blue" / "0.bmp")
    assert folders.raw(folder, size=32)["test_images"][0].max() == 0


def study(folder: Path, root: Path, **changes: Any) -> Protocol:
    section = params.read(root / "params.yaml")["cifar10-small"] | {"data": {"folder": str(folder), "size": 16}}
    section |= {"holdout": 4, "epochs": 1, "batch_size": 8, "steps": 1, "precision": "fp32", "arms": ["full"]} | changes
    return Protocol.model_validate(section)


def test_training(folder: Path, root: Path) -> None:
    protocol = study(folder, root)
    raw: dict[str, Tensor] = images.split(folders.raw(folder, size=16), holdout=protocol.holdout)
    parts = {part: Images(raw[f"{part}_images"], raw[f"{part}_labels"]) for part in images.PARTS}
    run = train(protocol.training(), arm="full", seed=0, data=parts, device=torch.device("cpu"))
    assert run.model(parts["test"].batch(torch.arange(2))[0]).shape == (2, 3)


def break_train(folder: Path) -> None:
    (folder / "train").rename(folder / "training")


def break_classes(folder: Path) -> None:
    (folder / "test" / "red").rename(folder / "test" / "green")


def break_image(folder: Path) -> None:
    (folder / "train" / "blue" / "3.png").write_bytes(b"no image")


@pytest.mark.parametrize(
    ("breaking", "line"),
    [(break_train, r"train: a folder of images for each class is needed"),
     (break_classes, r"the same classes; green is"),
     (break_image, r"3\.png is not a whole image")],
)  # fmt: skip
def test_broken_folder(folder: Path, breaking: Any, line: str) -> None:
    breaking(folder)
    with pytest.raises(DataError, match=rf"^[^\n]*{line}[^\n]*$"):
        folders.raw(folder, size=16)


@pytest.mark.parametrize(
    ("changes", "line"),
    [({"data": {"folder": "x"}}, "size"), ({"data": {"folder": "x", "size": 4}}, "greater than or equal to 8"),
     ({"data": {"folder": "x", "size": 16, "classes": 3}}, "unknown key; allowed: folder, size"),
     ({"data": "cifar100"}, "'digits', 'mnist' or 'cifar10'"),
     ({"model": "mnist-cnn"}, "does not fit the data; allowed: resnet18, resnet18-narrow")],
)  # fmt: skip
def test_wrong_section(tmp_path: Path, root: Path, changes: Any, line: str) -> None:
    section = params.read(root / "params.yaml")["cifar10-small"] | {"data": {"folder": "x", "size": 16}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"own": section | changes}))
    with pytest.raises(params.ParamsError, match=rf"^[^\n]*{line}[^\n]*$"):
        params.load(tmp_path / "params.yaml", "own")
