"""The raw data sets: a copy already prepared, else a mirror folder, else torchvision's own download.

CIFAR-10 is published as pickles, and loading a pickle can run any code: no file is read before the md5 of its
content is known to be the published one.
"""

import gzip
import hashlib
import lzma
import socket
import tarfile
import tempfile
import zlib
from collections.abc import Container, Iterator
from pathlib import Path

import torch
from torchvision import datasets
from torchvision.datasets.mnist import read_image_file, read_label_file

from seladv.study.places import StudyError, write_bytes

CLASSES: dict[str, tuple[str, ...]] = {
    "digits": tuple("0123456789"),
    "mnist": tuple("0123456789"),
    "cifar10": ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
}
MNIST_MD5 = {  # torchvision knows only those of the published .gz, and a mirror may have compressed anew
    "MNIST/raw/train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "MNIST/raw/train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "MNIST/raw/t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "MNIST/raw/t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
DOWNLOAD_TIMEOUT = 30.0  # seconds without a byte; torchvision sets none: a silent host would hang it
ARCHIVES = (".tar.gz", ".tar.xz")
# What reading a damaged file may raise; tarfile lets through what its header's numbers are not.
READ_ERRORS = (OSError, EOFError, ValueError, OverflowError, zlib.error, lzma.LZMAError, tarfile.TarError)
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
        StudyError: a file cannot be had, is not the published one, or cannot be written; one line.
    """
    if name == "digits":
        return _digits()
    if name not in CLASSES:
        raise StudyError(f"unknown data set {name!r}: expected one of {', '.join(CLASSES)}")
    wanted = MNIST_MD5 if name == "mnist" else _of_cifar()
    missing = {path: md5 for path, md5 in wanted.items() if not _whole(root / path, md5)}
    if missing and mirror is None:
        _download(name, missing, root)
    elif missing and mirror is not None:
        mirror = mirror.expanduser().absolute()
        _copy(missing, root, mirror, where=f"the mirror {mirror}")
    return _mnist(root) if name == "mnist" else _cifar(root)


def _of_cifar() -> dict[str, str]:
    """Path of each file below the root → md5 of its content, as torchvision knows them."""
    cifar = datasets.CIFAR10
    listed = [*cifar.train_list, *cifar.test_list, (cifar.meta["filename"], cifar.meta["md5"])]
    return {f"{cifar.base_folder}/{file}": md5 for file, md5 in listed}


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def _whole(path: Path, md5: str) -> bool:
    try:
        return path.is_file() and _md5(path.read_bytes()) == md5
    except OSError as error:
        raise StudyError(f"cannot read {path} ({error.strerror}): give access and run again") from None


def _copy(missing: dict[str, str], root: Path, folder: Path, *, where: str) -> None:
    """Take the missing files out of `folder`, which errors call `where`.

    A bad source is reported only where no other one is good.
    """
    left = {Path(path).name: path for path in missing}
    problems: list[tuple[str, str]] = []  # of a file, or of an archive that may hold any
    try:
        if not folder.is_dir():
            raise StudyError(f"{where} is not a folder. {WAYS}")
        for source in _candidates(missing, folder):
            problems += _take(source, left, missing, root)
    except OSError as error:
        raise StudyError(
            f"cannot read {error.filename or folder} ({error.strerror}): give access and run again"
        ) from None
    if left:
        found = "; ".join(text for file, text in problems if not file or file in left)
        absent = "there neither plain, nor as .gz, nor inside a .tar.gz or .tar.xz"
        raise StudyError(f"{where} has no whole {', '.join(left)}: {found or absent}. {WAYS}")


def _take(source: Path, left: dict[str, str], missing: dict[str, str], root: Path) -> Iterator[tuple[str, str]]:
    """Write what `source` has of the files `left`, and take them out of `left`; yields what was wrong: (file, text)."""
    packed, name = source.name.endswith(ARCHIVES), source.name.removesuffix(".gz")
    if not packed and name not in left:
        return
    try:
        for file, content in _contents(source, left):
            if (found := _md5(content)) != (md5 := missing[left[file]]):
                yield file, f"in {source.name} its md5 is {found} where {md5} was expected"
                continue
            write_bytes(root / left.pop(file), content)
            if not left:
                return
    except READ_ERRORS as error:
        what = "cannot be read" if isinstance(error, OSError) and error.errno else "is broken off or damaged"
        yield "" if packed else name, f"{source.name} {what} ({error})"


def _candidates(missing: dict[str, str], folder: Path) -> Iterator[Path]:
    """Where the missing files may be; archives last, as one is unpacked from its start to reach any file."""
    for path in missing:
        for file in (folder / Path(path).name, folder / path):
            yield from (source for source in (file, Path(f"{file}.gz")) if source.is_file())
    name = "cifar" if any("cifar" in path for path in missing) else "mnist"  # the likely archive first
    archives = [file for file in folder.iterdir() if file.name.endswith(ARCHIVES) and file.is_file()]
    yield from sorted(archives, key=lambda file: (name not in file.name.lower(), file.name))


def _contents(source: Path, names: Container[str]) -> Iterator[tuple[str, bytes]]:
    """Base name and content of each file in `source` that `names` holds; the members' own paths are never followed."""
    if source.name.endswith(ARCHIVES):
        # tarfile's stream mode, "r|xz", takes an archive that breaks off between members for a whole one.
        with tarfile.open(source, "r:gz" if source.suffix == ".gz" else "r:xz") as archive:
            for member in archive:
                file = Path(member.name).name
                if file in names and member.isfile() and (content := archive.extractfile(member)):
                    yield file, content.read()
    else:
        with gzip.open(source) if source.suffix == ".gz" else source.open("rb") as stream:
            yield source.name.removesuffix(".gz"), stream.read()


def _download(name: str, missing: dict[str, str], root: Path) -> None:
    """Download into a folder of its own, so that what a failed download leaves never looks like data."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(dir=root, prefix=".download-", ignore_cleanup_errors=True)
    except OSError as error:
        raise StudyError(f"{root} cannot be written ({error.strerror}): give access and run again") from None
    timeout = socket.getdefaulttimeout()
    with folder as path:
        try:
            socket.setdefaulttimeout(DOWNLOAD_TIMEOUT)
            (datasets.MNIST if name == "mnist" else datasets.CIFAR10)(path, download=True)
        except Exception as error:  # torchvision lets through what urllib, http, ssl, gzip and tarfile raise
            here, reason = root / next(iter(missing)), " ".join(str(error).split())
            raise StudyError(f"no whole {here}, and torchvision's download failed: {reason}. {WAYS}") from None
        finally:
            socket.setdefaulttimeout(timeout)
        _copy(missing, root, Path(path), where="torchvision's download")


def _mnist(root: Path) -> dict[str, torch.Tensor]:
    # Not by torchvision's class, which prefers a MNIST/processed/*.pt that no md5 covers.
    found = {}
    for part, prefix in (("train", "train"), ("test", "t10k")):
        stem = f"{root}/MNIST/raw/{prefix}"
        found[f"{part}_images"] = read_image_file(f"{stem}-images-idx3-ubyte").unsqueeze(1)
        found[f"{part}_labels"] = read_label_file(f"{stem}-labels-idx1-ubyte")
    return found


def _cifar(root: Path) -> dict[str, torch.Tensor]:
    found = {}
    for part in ("train", "test"):
        data = datasets.CIFAR10(root, train=part == "train")
        found[f"{part}_images"] = torch.as_tensor(data.data).permute(0, 3, 1, 2).contiguous()  # from [N, H, W, C]
        found[f"{part}_labels"] = torch.as_tensor(data.targets, dtype=torch.int64)
    return found


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
