"""What there is to explore: every protocol's trained networks, or small ones made on the spot where there are none."""

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from seladv import arms, checkpoint, data, params, provenance, record, sources
from seladv.data import Images
from seladv.protocol import Protocol
from seladv.train import train

PLACES = {"": "models", "by hand": "runs/lab/models", "short": "runs/lab/explore"}  # "by hand": 2-train in JupyterLab
SHORT_ARMS, SHORT_EPOCHS = ("margin-50", "full"), 6


class Found(NamedTuple):
    """A finished run's networks: where they lie, and how they came there (a key of `PLACES`)."""

    protocol: str
    arm: str
    seed: int
    folder: Path
    origin: str = ""

    @property
    def label(self) -> str:
        """The run as a person reads it: margin-50, seed 0."""
        return f"{self.arm}, seed {self.seed}" + (f" ({self.origin})" if self.origin else "")


class Subject(NamedTuple):
    """A run to look at: its network in eval mode, its protocol, the images, and the record that training left."""

    run: Found
    model: nn.Module
    study: Protocol
    data: dict[str, Images]
    record: dict[str, Any]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the classes; of images of one's own, their numbers."""
        known = sources.CLASSES.get(self.study.data) if isinstance(self.study.data, str) else None
        return known or tuple(map(str, range(self.data["train"].labels.max() + 1)))


def find(root: Path, protocol: str) -> list[Found]:
    """The finished runs of `protocol` below the study's `root`: the study's own first, then those made by hand."""
    runs = []
    for origin, place in PLACES.items():
        for folder in sorted((root / place / protocol).glob("*-*")):
            arm, _, seed = folder.name.rpartition("-")
            if seed.isdecimal() and _is_arm(arm) and (folder / "run.json").exists():  # which training writes last
                runs.append(Found(protocol, arm, int(seed), folder, origin))
    return runs


@cache
def images(root: Path, protocol: str) -> dict[str, Images]:
    """The protocol's prepared images. The digits, which need no download, are prepared in memory where no file is.

    Raises:
        FileNotFoundError, ValueError: see `data.load`.
    """
    study, path = params.load(root / "params.yaml", protocol), root / "data" / f"{protocol}.safetensors"
    if study.data != "digits" or path.exists():
        return data.load(path, device=provenance.device())
    raw = data.split(sources.raw("digits", root=root / "data" / "raw", mirror=None), holdout=study.holdout)
    tensors = {name: tensor.to(provenance.device()) for name, tensor in raw.items()}
    return {part: Images(tensors[f"{part}_images"], tensors[f"{part}_labels"]) for part in data.PARTS}


@cache
def load(root: Path, run: Found) -> Subject:
    """A run with the network that the protocol's tables show (`headline`).

    Raises:
        FileNotFoundError, ValueError: the network, the data or params.yaml is missing or does not fit; one line.
    """
    study = params.load(root / "params.yaml", run.protocol, arm=run.arm, seed=run.seed)
    path = run.folder / f"{study.headline}.safetensors"
    model = record.load_model(path, study.model, device=provenance.device())
    return Subject(run, model, study, images(root, run.protocol), json.loads((run.folder / "run.json").read_text()))


def train_short(root: Path) -> None:
    """Train two arms on the digits for `SHORT_EPOCHS`, seconds each, into `PLACES["short"]`.

    Raises:
        ParamsError: params.yaml has no protocol `digits`.
    """
    parts, device = images(root, "digits"), provenance.device()
    for arm in SHORT_ARMS:
        settings = params.load(root / "params.yaml", "digits", arm=arm, seed=0).training() | {"epochs": SHORT_EPOCHS}
        with _quiet():
            run = train(settings, arm=arm, seed=0, data=parts, device=device, report=lambda line: None)
        folder = root / PLACES["short"] / "digits" / f"{arm}-0"
        record.save_models(folder, run)
        about = {"protocol": "digits", "arm": arm, "seed": 0, **record.summary(run), **provenance.describe(root)}
        checkpoint.write_json(folder / "run.json", about)


@contextmanager
def _quiet() -> Iterator[None]:
    """No bars, which would leave empty lines in the notebook; one thread: the network is too small for more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        torch.set_num_threads(threads)


def ensure(root: Path, protocol: str) -> dict[str, list[Found]]:
    """The finished runs of every protocol that has any; `protocol` comes first, or the digits where it has none.

    Two small networks are trained on the digits where these have none either. One line says what is done instead.
    """
    first = protocol
    if not find(root, protocol):
        first, instead = "digits", "the digits' are shown"
        if not find(root, first):
            instead = f"{' and '.join(SHORT_ARMS)} are trained on the digits for {SHORT_EPOCHS} epochs, in seconds"
        print(f"No trained network of {protocol} is in {root / 'models' / protocol}: {instead}.")
    if not find(root, first):
        train_short(root)
    names = [first, *(name for name in params.check(root / "params.yaml") if name != first)]
    return {name: runs for name in names if (runs := find(root, name))}


def _is_arm(name: str) -> bool:
    try:
        arms.parse(name)
    except ValueError:
        return False
    return True
