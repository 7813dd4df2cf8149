"""The networks, by the names that params.yaml uses. Images come in [0, 1]; logits go out."""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from seladv.data.images import stream
from seladv.training import library


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


MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)  # of CIFAR-10's training images, by channel


def resnet18_cifar(classes: int = 10, *, width: int = 64) -> nn.Module:
    """torchvision's ResNet-18 (He et al. 2016) with CIFAR's stem: 3×3, stride 1, no max-pool.

    Args:
        classes: how many logits.
        width: channels of the first stage; 64 is the original, and 16 needs about a twelfth of the work.
    """
    from torchvision.models.resnet import BasicBlock, resnet18  # here: importing torchvision takes seconds

    network = resnet18(num_classes=classes)
    if width != 64:  # torchvision's own constructor knows no other
        network.inplanes = width
        network.bn1 = nn.BatchNorm2d(width)
        for stage, stride in enumerate((1, 2, 2, 2)):
            setattr(network, f"layer{stage + 1}", network._make_layer(BasicBlock, width << stage, 2, stride=stride))
        network.fc = nn.Linear(width * 8, classes)
    network.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
    network.maxpool = nn.Identity()
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")  # as torchvision's own
    return nn.Sequential(library.Normalize(MEAN, STD), network)


MODELS: dict[str, Callable[[int], nn.Module]] = {
    "mnist-cnn": mnist_cnn,
    "digits-cnn": digits_cnn,
    "resnet18": resnet18_cifar,
    "resnet18-narrow": partial(resnet18_cifar, width=16),
}


def build(
    name: str, *, seed: int, classes: int = 10, size: int | None = None, device: torch.device | str = "cpu"
) -> nn.Module:
    """A freshly initialised network, the same for a seed on every device.

    Args:
        name: a key of `MODELS`, or `torchvision/<name>` or `timm/<name>`.
        seed: the run's seed; only the initial weights depend on it.
        classes: how many logits.
        size: pixels of a side, which only a network of a library may depend on.
        device: where the network goes, in channels-last layout, the fastest for its convolutions.

    Raises:
        StudyError: a library, or its network, is not there, or cannot be built for this size.
    """
    # Layers initialise themselves from the global generator: borrow it, and give it back as it was.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.set_state(stream(seed, "init").get_state())
        model = library.build(name, classes=classes, size=size) if "/" in name else MODELS[name](classes)
    return model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
