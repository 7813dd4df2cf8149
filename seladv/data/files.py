"""Raw files: read out of whatever holds them, checked, and written whole or not at all."""

import errno
import gzip
import hashlib
import lzma
import os
import secrets
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO

from seladv.study.places import StudyError

Readable = IO[bytes] | gzip.GzipFile
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
READ_ERRORS = (OSError, EOFError, zlib.error, lzma.LZMAError, tarfile.TarError)


class DataError(StudyError):
    """A data file is missing, altered or cannot be written; the message, one line, says what to do."""


class Unusable(Exception):
    """A source lacks a file, breaks off, or holds something other than the published content."""


def contents(source: Path) -> Iterator[tuple[str, Readable]]:
    """Base name and content of each file in `source`; the members' own paths are never followed."""
    if source.name.endswith((".tar.gz", ".tar.xz")):
        # tarfile's stream mode, "r|xz", takes an archive that breaks off between members for a whole one.
        with tarfile.open(source, "r:gz" if source.suffix == ".gz" else "r:xz") as archive:
            for member in archive:
                if member.isfile() and (content := archive.extractfile(member)):
                    yield Path(member.name).name, content
    else:
        with gzip.open(source) if source.suffix == ".gz" else open(source, "rb") as stream:
            yield source.name.removesuffix(".gz"), stream


def store(stream: Readable, path: Path, md5: str) -> None:
    """Writes `stream` to `path` whole and checked, or not at all."""
    temp = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    digest = hashlib.md5(usedforsecurity=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temp, "wb") as out:
            for chunk in _chunks(stream):
                digest.update(chunk)
                out.write(chunk)
            out.flush()
            os.fsync(out.fileno())  # else a power cut may leave the new name on an empty file
        if digest.hexdigest() != md5:
            raise Unusable(f"{path.name} has md5 {digest.hexdigest()} where {md5} was expected")
        os.replace(temp, path)
    except OSError as error:
        raise unwritten(path, error) from error
    finally:
        with suppress(OSError):
            temp.unlink()


def _chunks(stream: Readable) -> Iterator[bytes]:
    """Keeps a failing read apart from a failing write: both are OSErrors."""
    try:
        while chunk := stream.read(1 << 20):
            yield chunk
    except READ_ERRORS as error:
        raise Unusable(f"broken off or damaged ({error})") from error


def unwritten(path: Path, error: OSError) -> DataError:
    """What to raise where `path` could not be written: why, and what to do."""
    full = error.errno in DISK_FULL
    what, remedy = ("disk full while writing", "make room") if full else ("cannot write", "give access")
    return DataError(f"{what} {path} ({error.strerror}): nothing of it was kept; {remedy} and run again")


def md5_of(path: Path) -> str | None:
    """Of the file's content; None if there is no such file."""
    if not path.is_file():
        return None
    try:
        with open(path, "rb") as stream:
            return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror}): give access and run again") from error
