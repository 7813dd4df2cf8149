"""Fetches the raw data sets: a copy already prepared, else a mirror folder, else torchvision's own download.

CIFAR-10 is published as pickles, and loading a pickle can run any code: no file is read before the md5 of its
content is known to be the published one.
"""

import errno
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torchvision import datasets

from seladv.data.files import DISK_FULL, READ_ERRORS, DataError, Unusable, contents, md5_of, store, unwritten

CLASSES: dict[str, tuple[str, ...]] = {
    "digits": tuple("0123456789"),
    "mnist": tuple("0123456789"),
    "cifar10": ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
}
MNIST_MD5 = {  # torchvision knows only those of the published .gz, and a mirror may have compressed anew
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
DOWNLOAD_TIMEOUT = 30.0  # seconds without a byte; torchvision sets none: a silent host would hang it
WAYS = (
    "Supply the files by a mirror, a folder with them plain, as .gz or inside a .tar.gz or .tar.xz, which "
    "SELADV_MIRROR names; or, with no mirror named, by a network connection for torchvision's download."
)


def raw(name: str, *, root: Path, mirror: Path | None) -> dict[str, torch.Tensor]:
    """The data set `name`, fetched into `root` where it is not there yet.

    Args:
        name: "digits" (bundled with scikit-learn: needs no files), "mnist" or "cifar10".
        root: folder of the prepared copies, in torchvision's layout; made if absent.
        mirror: folder to take missing files from, never written to; None lets torchvision download them.

    Returns:
        train_images and test_images, uint8 [N, C, H, W], 0 to 255; train_labels and test_labels, int64 [N].

    Raises:
        DataError: a file cannot be had, is not the published one, or cannot be written.
    """
    if name == "digits":
        return _digits()
    if name not in CLASSES:
        raise DataError(f"unknown data set {name!r}: expected one of {', '.join(CLASSES)}")
    root, wanted = Path(root), _wanted(name)
    found = {path: md5_of(root / path) for path in wanted}
    missing = {path: md5 for path, md5 in wanted.items() if found[path] != md5}
    try:
        if missing and mirror is None:
            _download(name, missing, root)
        elif missing and mirror is not None:
            _copy(name, missing, root, Path(mirror))
    except Unusable as problem:
        altered = [
            f"The copy at {root / path} has md5 {found[path]} where {md5} was expected."
            for path, md5 in missing.items()
            if found[path]
        ]
        # split() and join: torchvision's own messages run over several lines.
        raise DataError(" ".join(f"{problem}. {' '.join(altered[:1])} {WAYS}".split())) from problem
    return _load(name, root)


def _wanted(name: str) -> dict[str, str]:
    """Path of each file below the root → md5 of its content."""
    if name == "mnist":
        return {f"MNIST/raw/{file}": md5 for file, md5 in MNIST_MD5.items()}
    cifar = datasets.CIFAR10
    listed = [*cifar.train_list, *cifar.test_list, (cifar.meta["filename"], cifar.meta["md5"])]
    return {f"{cifar.base_folder}/{file}": md5 for file, md5 in listed}


def _copy(name: str, missing: dict[str, str], root: Path, mirror: Path) -> None:
    """Takes the missing files out of the mirror; a bad source is reported only where no other one is good."""
    left = {Path(path).name: path for path in missing}
    problems = [] if mirror.is_dir() else ["it is not a folder"]
    for source in candidates(name, missing, mirror):
        try:
            for file, stream in contents(source):
                if file in left:
                    store(stream, root / left[file], missing[left[file]])
                    del left[file]
                if not left:
                    return
        except (*READ_ERRORS, Unusable) as problem:
            problems.append(f"{source}: {problem}")
    if left:
        absent = "it is there neither plain, nor as .gz, nor inside a .tar.gz or .tar.xz"
        raise Unusable(f"{next(iter(left))}: not in the mirror {mirror}: {'; '.join(problems) or absent}")


def candidates(name: str, missing: dict[str, str], mirror: Path) -> Iterator[Path]:
    """Where the missing files may be; archives last, as one is unpacked from its start to reach any file."""
    for path in missing:
        for file in (mirror / Path(path).name, mirror / path):
            yield from (source for source in (file, Path(f"{file}.gz")) if source.is_file())
    archives = [*mirror.glob("*.tar.gz"), *mirror.glob("*.tar.xz")]
    stem = name.removesuffix("10")  # the likely archive first: reading through another takes long
    yield from sorted(archives, key=lambda file: (stem not in file.name.lower(), file.name))


def _download(name: str, missing: dict[str, str], root: Path) -> None:
    """Downloads into a folder of its own, so that what a failed download leaves never looks like data."""
    first, timeout = next(iter(missing)), socket.getdefaulttimeout()
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root, prefix=".download-", ignore_cleanup_errors=True) as folder:
            socket.setdefaulttimeout(DOWNLOAD_TIMEOUT)
            (datasets.MNIST if name == "mnist" else datasets.CIFAR10)(folder, download=True)
            for path, md5 in missing.items():
                with open(Path(folder) / path, "rb") as stream:
                    store(stream, root / path, md5)
    except DataError:
        raise
    except Exception as error:  # torchvision lets through what urllib, http, ssl, gzip and tarfile raise
        if isinstance(error, OSError) and error.errno in (*DISK_FULL, errno.EACCES, errno.EROFS):
            raise unwritten(root / first, error) from error
        raise Unusable(f"{Path(first).name}: torchvision's download failed: {str(error).strip()}") from error
    finally:
        socket.setdefaulttimeout(timeout)


class _MNIST(datasets.MNIST):  # type: ignore[misc]  # torchvision has no type hints
    """Reads the raw files and nothing else: torchvision prefers a MNIST/processed/*.pt, which no md5 covers."""

    raw_folder = property(lambda self: os.path.join(self.root, "MNIST", "raw"))
    processed_folder = property(lambda self: os.path.join(self.root, "MNIST", "never processed"))


def _load(name: str, root: Path) -> dict[str, torch.Tensor]:
    tensors = {}
    for split in ("train", "test"):
        data = (_MNIST if name == "mnist" else datasets.CIFAR10)(root, train=split == "train")
        images = torch.as_tensor(data.data)  # mnist [N, H, W], cifar10 [N, H, W, C]
        images = images.unsqueeze(1) if name == "mnist" else images.permute(0, 3, 1, 2)
        tensors[f"{split}_images"] = images.contiguous()
        tensors[f"{split}_labels"] = torch.as_tensor(data.targets, dtype=torch.int64)
    return tensors


def _digits() -> dict[str, torch.Tensor]:
    """1437 training and 360 test images of 1×8×8: the same split on every machine and for every seed."""
    from sklearn.datasets import load_digits  # here, as only this data set needs scikit-learn
    from sklearn.model_selection import train_test_split

    data = load_digits()
    images = torch.as_tensor(data.images * (255 / 16)).round().to(torch.uint8).unsqueeze(1)
    labels = torch.as_tensor(data.target, dtype=torch.int64)
    train, test = train_test_split(range(len(labels)), test_size=360, stratify=labels.numpy(), random_state=0)
    return {
        "train_images": images[train],
        "train_labels": labels[train],
        "test_images": images[test],
        "test_labels": labels[test],
    }
