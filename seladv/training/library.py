"""Networks of torchvision and timm: any classifier, by its name there, for the images and classes of a study."""

from typing import Any

import torch
from torch import Tensor, nn

from seladv.study.places import StudyError, nearest

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, which torchvision's weights were trained on


class Normalize(nn.Module):
    """(x - mean) / std by channel, inside the network: so that ε keeps its meaning in [0, 1] for every attack.

    Grey images [B, 1, H, W] become three equal channels first.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]):
        super().__init__()
        # One multiplication and one addition; not saved with the weights, since the code states them.
        scale = 1 / torch.tensor(std).view(-1, 1, 1)
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("shift", -torch.tensor(mean).view(-1, 1, 1) * scale, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.shift


def build(name: str, *, classes: int, size: int | None) -> nn.Module:
    """`torchvision/<name>` or `timm/<name>` without weights, and in front of it the normalisation of its weights.

    The network is the library's own: its stem is made for about 224 pixels. A vision transformer is built for images
    of `size` pixels; a convolutional network takes images of any size, and shrinks small ones to nothing.

    Raises:
        StudyError: timm is not installed, the library has no such network, or none for this size; one line.
    """
    library, _, network = name.partition("/")
    make = _timm if library == "timm" else _torchvision
    try:
        return make(network, num_classes=classes, size=size)
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        reason = " ".join(str(error).split())[:300]
        raise StudyError(
            f"model = {name!r} cannot be built for {size} pixels and {classes} classes: {reason}"
        ) from None


def _torchvision(name: str, *, num_classes: int, size: int | None) -> nn.Module:
    from torchvision import models  # here: importing it takes seconds

    known = models.list_models(module=models)
    if name not in known:
        raise StudyError(f"model = 'torchvision/{name}': torchvision has no such classifier{nearest(name, known)}")
    sizes: list[dict[str, Any]] = [{"image_size": size}, {"input_size": (size, size)}] if size else []
    network = _first(models.get_model, name, sizes, weights=None, num_classes=num_classes)
    return nn.Sequential(Normalize(MEAN, STD), network)


def _timm(name: str, *, num_classes: int, size: int | None) -> nn.Module:
    try:
        import timm
    except ImportError:
        raise StudyError(f"model = 'timm/{name}' needs timm: pip install timm") from None
    if not timm.is_model(name):
        raise StudyError(f"model = 'timm/{name}': timm has no such network{nearest(name, timm.list_models())}")
    sizes = [{"img_size": size}] if size else []
    network = _first(timm.create_model, name, sizes, pretrained=False, num_classes=num_classes)
    own = network.pretrained_cfg
    return nn.Sequential(Normalize(tuple(own.get("mean", MEAN)), tuple(own.get("std", STD))), network)


def _first(make: Any, name: str, sizes: list[dict[str, Any]], **settings: Any) -> Any:
    """The network made with the first of `sizes` that it has an argument for, else with none."""
    for size in sizes:
        try:
            return make(name, **size, **settings)
        except TypeError:
            continue
    return make(name, **settings)
