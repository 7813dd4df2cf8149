"""Raw data: every kind of source gives the same tensors; an altered file is never read, a partial one never kept."""

import errno
import gzip
import hashlib
import io
import os
import pickle
import signal
import socket
import struct
import tarfile
import threading
import zlib
from bisect import bisect_right
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision import datasets

from seladv.data import sources
from seladv.data.sources import raw
from seladv.study.places import StudyError

Files = dict[str, bytes]  # path in torchvision's layout → content
NAMES = ("mnist", "cifar10")
KINDS = ("plain", "subfolders", "gz", "tar.gz", "tar.xz")


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> dict[str, Files]:
    """Made-up data sets in the real formats; their md5s replace the published ones."""
    draw = np.random.default_rng(0)
    mnist: Files = {}
    for split, n in (("train", 20), ("t10k", 10)):
        pixels = draw.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        mnist[f"MNIST/raw/{split}-images-idx3-ubyte"] = struct.pack(">4i", 2051, n, 28, 28) + pixels.tobytes()
        labels = bytes(i % 10 for i in range(n))
        mnist[f"MNIST/raw/{split}-labels-idx1-ubyte"] = struct.pack(">2i", 2049, n) + labels
    cifar: Files = {}
    for file in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        batch = {"data": draw.integers(0, 256, (4, 3072), dtype=np.uint8), "labels": [0, 3, 6, 9]}
        cifar[f"cifar-10-batches-py/{file}"] = pickle.dumps(batch)
    names = list(sources.CLASSES["cifar10"])
    cifar["cifar-10-batches-py/batches.meta"] = pickle.dumps({"label_names": names})

    monkeypatch.setattr(sources, "MNIST_MD5", {path: md5(content) for path, content in mnist.items()})
    listed = [[Path(path).name, md5(content)] for path, content in cifar.items()]
    monkeypatch.setattr(datasets.CIFAR10, "train_list", listed[:5])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", listed[5:6])
    monkeypatch.setattr(datasets.CIFAR10, "meta", {**datasets.CIFAR10.meta, "md5": listed[6][1]})
    return {"mnist": mnist, "cifar10": cifar}


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """A download is refused at once on every machine; `site` opens a host of its own."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{free.getsockname()[1]}/"
    monkeypatch.setattr(datasets.MNIST, "mirrors", [closed, closed])
    monkeypatch.setattr(datasets.CIFAR10, "url", f"{closed}cifar-10-python.tar.gz")


def tar(files: Files, path: Path, mode: str) -> None:
    with tarfile.open(path, f"w:{mode}") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def lay(files: Files, folder: Path, kind: str = "subfolders") -> Path:
    """Writes the files as `kind` says; `subfolders` is also the layout of a prepared copy."""
    folder.mkdir(parents=True, exist_ok=True)
    if kind.startswith("tar."):
        tar(files, folder / f"data.{kind}", kind.removeprefix("tar."))
        return folder
    for name, content in files.items():
        path = folder / (name if kind == "subfolders" else Path(name).name)
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind == "gz":
            Path(f"{path}.gz").write_bytes(gzip.compress(content))
        else:
            path.write_bytes(content)
    return folder


def everything(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def bomb(flag: Path) -> bytes:
    """A pickle that leaves a file behind when it is loaded."""

    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return open, (str(flag), "w")

    return pickle.dumps(Bomb())


def offer(files: Files, site: Path) -> None:
    """Lays the files out as the data hosts do."""
    if any(name.startswith("MNIST") for name in files):
        lay(files, site, "gz")
    else:
        tar(files, site / datasets.CIFAR10.filename, "gz")


def vouch(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes torchvision take what the host offers now for the published files."""
    packed = {path.name: md5(path.read_bytes()) for path in sorted(site.iterdir())}
    monkeypatch.setattr(datasets.MNIST, "resources", list(packed.items()))
    monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", packed.get(datasets.CIFAR10.filename))


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A data host on this machine, in place of the real ones."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    folder = tmp_path / "site"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        # The default poll is half a second, which each test would wait at its end.
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/"
        monkeypatch.setattr(datasets.MNIST, "mirrors", [address])
        monkeypatch.setattr(datasets.CIFAR10, "url", f"{address}cifar-10-python.tar.gz")
        yield folder
        server.shutdown()


def refused(*args: object, match: str | None = None, **kwargs: object) -> str:
    """The message of the StudyError that raw() must raise: always one line."""
    with pytest.raises(StudyError, match=match) as caught:
        raw(*args, **kwargs)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- what comes out


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", KINDS)
def test_mirror(tiny: dict[str, Files], tmp_path: Path, name: str, kind: str) -> None:
    mirror, root = lay(tiny[name], tmp_path / "mirror", kind), tmp_path / "root"
    data = raw(name, root=root, mirror=mirror)
    assert everything(root) == set(tiny[name])
    assert all((root / path).read_bytes() == content for path, content in tiny[name].items())
    if name == "mnist":
        pixels = tiny[name]["MNIST/raw/t10k-images-idx3-ubyte"][16:]
        assert data["train_images"].shape == (20, 1, 28, 28)
        assert data["test_labels"].tolist() == list(range(10))
    else:
        pixels = pickle.loads(tiny[name]["cifar-10-batches-py/test_batch"])["data"].tobytes()
        assert data["train_images"].shape == (20, 3, 32, 32)
        assert data["test_labels"].tolist() == [0, 3, 6, 9]
    assert data["test_images"].numpy().tobytes() == pixels
    assert {key: tensor.dtype for key, tensor in data.items()} == {
        "train_images": torch.uint8,
        "train_labels": torch.int64,
        "test_images": torch.uint8,
        "test_labels": torch.int64,
    }


@pytest.mark.parametrize("name", NAMES)
def test_prepared_copy(tiny: dict[str, Files], tmp_path: Path, name: str) -> None:
    root = lay(tiny[name], tmp_path)
    before = {path: os.stat(root / path).st_mtime_ns for path in tiny[name]}
    raw(name, root=root, mirror=None)
    raw(name, root=root, mirror=tmp_path / "no such folder")
    assert {path: os.stat(root / path).st_mtime_ns for path in tiny[name]} == before


@pytest.mark.parametrize("name", NAMES)
def test_missing_and_altered_files(tiny: dict[str, Files], tmp_path: Path, name: str) -> None:
    root = lay(tiny[name], tmp_path / "root")
    lost, altered, *kept = tiny[name]
    (root / lost).unlink()
    (root / altered).write_bytes(b"altered")
    before = {path: os.stat(root / path).st_mtime_ns for path in kept}
    mirror = lay({path: tiny[name][path] for path in (lost, altered)}, tmp_path / "mirror")
    raw(name, root=root, mirror=mirror)
    assert {path: os.stat(root / path).st_mtime_ns for path in kept} == before
    assert (root / altered).read_bytes() == tiny[name][altered]


def test_processed_copy_is_not_read(tiny: dict[str, Files], tmp_path: Path) -> None:
    root = lay(tiny["mnist"], tmp_path)
    (root / "MNIST/processed").mkdir()
    for split in ("training", "test"):
        torch.save((torch.zeros(1, 28, 28), torch.zeros(1)), root / f"MNIST/processed/{split}.pt")
    assert len(raw("mnist", root=root, mirror=None)["train_images"]) == 20


def test_real_mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    beside = Path(__file__).parents[2] / "shared/datasets"
    mirror = Path(os.environ.get("SELADV_MIRROR") or beside)
    if not mirror.is_dir():
        pytest.skip(f"no mirror of the real data: neither SELADV_MIRROR nor {beside} is a folder")
    mnist = raw("mnist", root=tmp_path, mirror=mirror)
    assert mnist["train_images"].shape == (60_000, 1, 28, 28)
    assert mnist["test_images"].shape == (10_000, 1, 28, 28)
    # One batch stands for the six: unpacking them all takes ten seconds of a core.
    monkeypatch.setattr(datasets.CIFAR10, "train_list", datasets.CIFAR10.train_list[:1])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", datasets.CIFAR10.train_list[:1])
    cifar10 = raw("cifar10", root=tmp_path, mirror=mirror)
    assert cifar10["train_images"].shape == (10_000, 3, 32, 32)
    for data in (mnist, cifar10):
        assert data["train_labels"].unique().tolist() == list(range(10))


# ---- bad sources


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("kind", "part"), [("gz", 0.0), ("gz", 0.99), ("tar.gz", 0.5), ("tar.xz", 0.99)])
def test_truncated_source(tiny: dict[str, Files], tmp_path: Path, name: str, kind: str, part: float) -> None:
    mirror, root = lay(tiny[name], tmp_path / "mirror", kind), tmp_path / "root"
    broken = sorted(mirror.iterdir())[0]
    broken.write_bytes(broken.read_bytes()[: int(part * broken.stat().st_size)])
    message = refused(name, root=root, mirror=mirror)
    assert broken.name in message
    assert str(mirror) in message
    assert everything(root) < set(tiny[name])  # whole files may stay, partial ones may not


def test_archive_cut_between_members(tiny: dict[str, Files], tmp_path: Path) -> None:
    archive = lay(tiny["cifar10"], tmp_path / "mirror", "tar.gz") / "data.tar.gz"
    packed = archive.read_bytes()
    with tarfile.open(archive) as opened:
        second = opened.getmembers()[1].offset

    def unpacked(cut: int) -> int:
        return len(zlib.decompressobj(wbits=31).decompress(packed[:cut]))

    cut = bisect_right(range(len(packed)), second, key=unpacked)
    archive.write_bytes(packed[:cut])
    refused(
        "cifar10",
        root=tmp_path / "root",
        mirror=archive.parent,
        match="gz is broken off .*ended before",
    )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", KINDS)
def test_altered_source(tiny: dict[str, Files], tmp_path: Path, name: str, kind: str) -> None:
    flag, path = tmp_path / "fired", list(tiny[name])[-1]
    mirror = lay({**tiny[name], path: bomb(flag)}, tmp_path / "mirror", kind)
    message = refused(name, root=tmp_path / "root", mirror=mirror, match="SELADV_MIRROR")
    assert Path(path).name in message
    assert md5(tiny[name][path]) in message
    assert md5(bomb(flag)) in message
    assert path not in everything(tmp_path / "root")
    assert not flag.exists()


@pytest.mark.parametrize("path", ["data_batch_3", "test_batch", "batches.meta"])
def test_altered_copy(tiny: dict[str, Files], tmp_path: Path, path: str) -> None:
    flag, root = tmp_path / "fired", lay(tiny["cifar10"], tmp_path / "root")
    altered = root / "cifar-10-batches-py" / path
    altered.write_bytes(bomb(flag))
    pickle.loads(bomb(tmp_path / "armed"))
    assert (tmp_path / "armed").exists()  # the bomb works where it is loaded
    for mirror in (None, lay({}, tmp_path / "empty")):
        message = refused("cifar10", root=root, mirror=mirror, match="SELADV_MIRROR")
        assert path in message
        assert not flag.exists()
    raw("cifar10", root=root, mirror=lay(tiny["cifar10"], tmp_path / "mirror"))
    assert not flag.exists()


def test_good_and_bad_copy(tiny: dict[str, Files], tmp_path: Path) -> None:
    mirror = lay(tiny["mnist"], tmp_path / "mirror", "tar.xz")
    lay({path: b"another data set's file of the same name" for path in tiny["mnist"]}, mirror, "plain")
    assert len(raw("mnist", root=tmp_path / "root", mirror=mirror)["test_images"]) == 10


def test_archive_paths(tiny: dict[str, Files], tmp_path: Path) -> None:
    odd = {f"../../../escaped/{Path(path).name}": content for path, content in tiny["mnist"].items()}
    odd["../../evil"] = b"evil"
    (tmp_path / "a/b").mkdir(parents=True)
    raw("mnist", root=tmp_path / "a/b/root", mirror=lay(odd, tmp_path / "a/b/mirror", "tar.gz"))
    assert everything(tmp_path / "a/b/root") == set(tiny["mnist"])
    assert not [path for path in tmp_path.rglob("*") if path.name in ("evil", "escaped")]


@pytest.mark.parametrize("name", NAMES)
def test_incomplete_mirror_is_no_download(
    tiny: dict[str, Files], tmp_path: Path, site: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    offer(tiny[name], site)
    vouch(site, monkeypatch)
    lost, *rest = tiny[name]
    mirror = lay({path: tiny[name][path] for path in rest}, tmp_path / "mirror")
    message = refused(name, root=tmp_path / "root", mirror=mirror, match="SELADV_MIRROR")
    assert Path(lost).name in message
    assert str(mirror) in message


def test_every_lacking_file_is_named(tiny: dict[str, Files], tmp_path: Path) -> None:
    """And no other: a bad copy of a file that was found elsewhere is no problem."""
    images, *rest, one, other = tiny["mnist"]
    mirror = lay({path: tiny["mnist"][path] for path in (images, *rest)}, tmp_path / "mirror", "gz")
    lay({images: b"something else"}, mirror, "plain")
    message = refused("mnist", root=tmp_path / "root", mirror=mirror)
    assert f"no whole {Path(one).name}, {Path(other).name}: there neither plain" in message


def test_header_with_an_impossible_size(tiny: dict[str, Files], tmp_path: Path) -> None:
    """Python's tarfile raises OverflowError on it."""
    header = bytearray(tarfile.TarInfo("a").tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\x80" + (2**80).to_bytes(11, "big")  # the size, in base 256
    header[156:157] = b"L"  # a long name follows
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    (mirror / "a.tar.gz").write_bytes(gzip.compress(bytes(header) + bytes(1024)))
    refused("mnist", root=tmp_path / "root", mirror=mirror, match=r"a\.tar\.gz is broken off or damaged")


def test_pipe_is_no_archive(tiny: dict[str, Files], tmp_path: Path) -> None:
    mirror = lay(tiny["mnist"], tmp_path / "mirror")
    os.mkfifo(mirror / "a.tar.gz")
    assert len(raw("mnist", root=tmp_path / "root", mirror=mirror)["test_images"]) == 10


def test_unreadable_mirror(tmp_path: Path) -> None:
    refused("mnist", root=tmp_path, mirror=tmp_path / ("a" * 300), match="^cannot read .*: give access and run again$")


def test_mirror_without_folder(tiny: dict[str, Files], tmp_path: Path) -> None:
    assert "not a folder" in refused("mnist", root=tmp_path, mirror=tmp_path / "typo", match="typo")


# ---- the download


@pytest.mark.parametrize("name", NAMES)
def test_download(
    tiny: dict[str, Files], tmp_path: Path, site: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    offer(tiny[name], site)
    vouch(site, monkeypatch)
    downloaded = raw(name, root=tmp_path / "root", mirror=None)
    mirrored = raw(name, root=tmp_path / "other", mirror=lay(tiny[name], tmp_path / "mirror"))
    assert all(torch.equal(downloaded[key], mirrored[key]) for key in mirrored)
    assert everything(tmp_path / "root") == set(tiny[name])  # no other file remains


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("altered", ["the packed file", "its content"])
def test_altered_download(
    tiny: dict[str, Files],
    tmp_path: Path,
    site: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    altered: str,
) -> None:
    flag, path = tmp_path / "fired", list(tiny[name])[-1]
    offer(tiny[name], site)
    vouch(site, monkeypatch)
    offer({**tiny[name], path: bomb(flag)}, site)
    if altered == "its content":  # then torchvision's own check of the packed file passes
        vouch(site, monkeypatch)
    assert ".download-" not in refused(name, root=tmp_path / "root", mirror=None, match="SELADV_MIRROR")
    assert everything(tmp_path / "root") < set(tiny[name])
    assert path not in everything(tmp_path / "root")
    assert not flag.exists()


@pytest.mark.parametrize(("name", "file"), [("mnist", "train-images-idx3-ubyte"), ("cifar10", "data_batch_1")])
def test_no_source(tmp_path: Path, name: str, file: str) -> None:
    message = refused(name, root=tmp_path / "root", mirror=None, match=file)
    assert "SELADV_MIRROR" in message
    assert "download" in message
    assert everything(tmp_path) == set()
    assert socket.getdefaulttimeout() is None  # set for the download alone


# ---- writing


@pytest.mark.parametrize("source", ["mirror", "download"])
def test_full_disk(
    tiny: dict[str, Files], tmp_path: Path, site: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    offer(tiny["mnist"], site)
    vouch(site, monkeypatch)
    mirror = lay(tiny["mnist"], tmp_path / "mirror", "gz") if source == "mirror" else None

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        refused("mnist", root=tmp_path / "root", mirror=mirror, match="root/.*No space left on device")
    assert everything(tmp_path / "root") == set()
    raw("mnist", root=tmp_path / "root", mirror=mirror)
    assert everything(tmp_path / "root") == set(tiny["mnist"])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a forked process, and this system has no fork")
def test_killed_run(tiny: dict[str, Files], tmp_path: Path) -> None:
    mirror, root = lay(tiny["cifar10"], tmp_path / "mirror", "gz"), tmp_path / "root"
    child = os.fork()
    if child == 0:
        try:
            os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)
            raw("cifar10", root=root, mirror=mirror)
        finally:
            os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    (left,) = everything(root)
    assert left not in tiny["cifar10"]
    assert raw("cifar10", root=root, mirror=mirror)["train_labels"].tolist() == [0, 3, 6, 9] * 5
    assert everything(root) == {left, *tiny["cifar10"]}


def test_unwritable_root(tiny: dict[str, Files], tmp_path: Path) -> None:
    (tmp_path / "root").write_bytes(b"a file where the folder should be")
    mirror = lay(tiny["mnist"], tmp_path / "mirror")
    refused("mnist", root=tmp_path / "root", mirror=mirror, match="root.* could not be written .*give access")
    refused("mnist", root=tmp_path / "root", mirror=None, match="root cannot be written .*give access")


# ---- digits, and names


def test_digits_split(tmp_path: Path) -> None:
    data, again = (raw("digits", root=tmp_path, mirror=None) for _ in range(2))
    assert all(torch.equal(data[key], again[key]) for key in data)
    assert everything(tmp_path) == set()
    assert data["train_images"].shape == (1437, 1, 8, 8)
    assert data["test_images"].shape == (360, 1, 8, 8)
    train, test = (data[f"{split}_labels"].bincount() for split in ("train", "test"))
    assert ((train + test) * 360 / 1797 - test).abs().max() <= 1


def test_digits_values(tmp_path: Path) -> None:
    from sklearn.datasets import load_digits

    data = raw("digits", root=tmp_path, mirror=None)
    ours = torch.cat([data["train_images"], data["test_images"]]).flatten(1)
    theirs = np.rint(load_digits().data * 255 / 16).astype(np.uint8)
    assert data["train_images"].dtype == torch.uint8
    # As multisets: every original image is in one half, once.
    assert sorted(map(bytes, ours.numpy())) == sorted(map(bytes, theirs))


def test_unknown_name(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"svhn.*digits.*mnist.*cifar10"):
        raw("svhn", root=tmp_path, mirror=None)
