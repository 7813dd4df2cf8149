"""Where things are: the study's root, the same from a stage (which runs there) and from JupyterLab (in notebooks/)."""

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Any


class StudyError(Exception):
    """Something that the user can put right; the message, one line, says what, where and what to do."""


def root() -> Path:
    """The nearest folder, from the working directory upwards, that holds params.yaml and dvc.yaml.

    Raises:
        StudyError: the working directory is not inside a checkout of the study.
    """
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "params.yaml").exists() and (folder / "dvc.yaml").exists():
            return folder
    raise StudyError(f"{here} is not inside the study: no folder above it holds params.yaml and dvc.yaml; go there")


def network(root: Path, protocol: str, *, arm: str, seed: int, which: str = "last") -> Path:
    """Where training left a run's network (`last`, `best` or `middle`), beside its run.json.

    Raises:
        StudyError: the run has not been trained, or has no such network.
    """
    path = root / "models" / protocol / f"{arm}-{seed}" / f"{which}.safetensors"
    if not path.exists():
        raise StudyError(f"{path} does not exist: run `dvc repro train-{protocol}@{arm}-{seed}` first")
    return path


def nearest(word: str, names: Iterable[str]) -> str:
    """`; did you mean <name>?` with the name most like `word`, to end a line with; empty where none is."""
    plain, names = word.lower(), list(names)
    prefixed = [name for name in names if plain.startswith(name) or (len(plain) > 1 and name.startswith(plain))]
    tried = ((names, 0.8), (prefixed, 0.0), (names, 0.6))  # `epsilon` is nearer to `eps` than difflib knows
    found = next((close for among, cutoff in tried if (close := get_close_matches(plain, among, 1, cutoff))), None)
    return f"; did you mean {found[0]}?" if found else ""


def write_bytes(path: Path, content: bytes) -> None:
    """Replace `path` by `content` in one move: see `write_chunks`."""
    write_chunks(path, [content])


def write_chunks(path: Path, chunks: Iterable[bytes]) -> None:
    """Replace `path` in one move; a kill or a full disk leaves the former file as it was.

    No more than one of `chunks` is held at a time.

    Raises:
        StudyError: the disk is full or the folder cannot be written; nothing is left behind.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            file.writelines(chunks)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        where = f"{path} could not be written ({error.strerror})"
        raise StudyError(f"{where}; it is as it was before: make room or give access, and run again") from None
    finally:
        with suppress(OSError):
            partial.unlink()


def write_json(path: Path, content: Any) -> None:
    """Write `content` as JSON that git can compare line by line; NaN is refused."""
    write_bytes(path, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())


def duration(hours: float) -> str:
    """Hours for people: in minutes below one."""
    return f"{hours:.2g} hours" if hours >= 1 else f"{max(1, round(60 * hours))} minutes"
