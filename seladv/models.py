"""The networks, by the names that params.yaml uses. Images come in [0, 1]; logits go out."""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from seladv.resnet import resnet18_cifar
from seladv.seeds import stream


def mnist_cnn(classes: int = 10) -> nn.Module:
    """The paper's MNIST network: two 3×3 convolutions without padding, 2×2 max-pool, dense 128, dense 10.

    Pooling comes before the second ReLU: the two commute exactly, and the ReLU then has a quarter of the work.
    """
    return nn.Sequential(
        nn.Conv2d(1, 32, 3),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64 * 12 * 12, 128),
        nn.ReLU(),
        nn.Linear(128, classes),
    )


def digits_cnn(classes: int = 10) -> nn.Module:
    """The same shape of network for 8×8 images: padded convolutions, half the dense layer."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64 * 4 * 4, 64),
        nn.ReLU(),
        nn.Linear(64, classes),
    )


MODELS: dict[str, Callable[[int], nn.Module]] = {
    "mnist-cnn": mnist_cnn,
    "digits-cnn": digits_cnn,
    "resnet18": resnet18_cifar,
    "resnet18-narrow": partial(resnet18_cifar, width=16),
}


def build(name: str, *, seed: int, classes: int = 10, device: torch.device | str = "cpu") -> nn.Module:
    """A freshly initialised network, the same for a seed on every device.

    Args:
        name: a key of `MODELS`.
        seed: the run's seed; only the initial weights depend on it.
        classes: how many logits.
        device: where the network goes, in channels-last layout, the fastest for its convolutions.
    """
    # Layers initialise themselves from the global generator: borrow it, and give it back as it was.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.set_state(stream(seed, "init").get_state())
        model = MODELS[name](classes)
    return model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
