"""What the tests share: a few real images, small random networks, and settings that train within a second."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch
from torch import Tensor, nn

from seladv.data import images, sources
from seladv.data.images import Images
from seladv.study import params
from seladv.training.train import train

ROOT = Path(__file__).parents[1]
SIZES = {"train": 150, "heldout": 20, "test": 40}  # 150: the last of the batches of 32 is a partial one

Network = Callable[..., nn.Module]

# Stages that tests start use one thread each, because several tests share the machine.
os.environ["OMP_NUM_THREADS"] = "1"

hypothesis.settings.register_profile("seladv", deadline=None, max_examples=30, derandomize=True)
hypothesis.settings.load_profile("seladv")


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """One thread: the networks are too small for two."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def root() -> Path:
    """The study's own folder, to read from."""
    return ROOT


@pytest.fixture(scope="session")
def digits() -> dict[str, Images]:
    """The first images of each part of the digits, as the data stage splits them."""
    parts = images.split(sources.raw("digits", root=Path("not needed"), mirror=None), holdout=100)
    return {part: Images(parts[f"{part}_images"][:n], parts[f"{part}_labels"][:n]) for part, n in SIZES.items()}


@pytest.fixture(scope="session")
def batch(digits: dict[str, Images]) -> tuple[Tensor, Tensor]:
    """24 images and their classes, not to be written to."""
    return digits["test"].batch(torch.arange(24))


def random_network(seed: int = 0, *, bias: bool = True) -> nn.Module:
    """Random weights and random batch-norm statistics, so that train and eval mode differ; in train mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        norm = nn.BatchNorm2d(4)
        norm.running_mean.normal_()  # type: ignore[union-attr]
        norm.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
        return nn.Sequential(nn.Conv2d(1, 4, 3), norm, nn.ReLU(), nn.Flatten(), nn.Linear(144, 10, bias=bias))


@pytest.fixture(scope="session")
def network() -> Network:
    """`network(seed)`: see `random_network`."""
    return random_network


class Broken(nn.Sequential):
    """A network that fails when it is run."""

    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("broken network")


@pytest.fixture
def broken(network: Network) -> nn.Module:
    """Fails when it is run."""
    return Broken(*network().children())


def quick() -> dict[str, Any]:
    """The digits' settings of params.yaml, with fewer epochs and steps, in full precision."""
    less = {"epochs": 2, "steps": 2, "batch_size": 32, "precision": "fp32"}
    return params.load(ROOT / "params.yaml", "digits").training() | less


@pytest.fixture
def settings() -> dict[str, Any]:
    """See `quick`; a test's own copy."""
    return quick()


@pytest.fixture(scope="session")
def trained(digits: dict[str, Images]) -> nn.Module:
    """A network after six epochs of ordinary training."""
    settings = quick() | {"epochs": 6, "steps": 1}
    return train(settings, arm="clean", seed=0, data=digits, device=torch.device("cpu")).model
