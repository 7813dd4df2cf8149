"""Gradient matching over all parameters against one gradient per sample by autograd."""

import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.functional import cosine_similarity, cross_entropy
from torch.utils.checkpoint import checkpoint
from torchvision.models import ResNet
from torchvision.models.resnet import BasicBlock

from seladv import ghost
from seladv.models import mnist_cnn


def by_autograd(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Gradients [B, parameters] of each sample's loss with respect to all parameters that require one.

    One backward pass per sample: `torch.func.vmap` over `grad` is wrong for a batch norm without its shift's gradient.
    """
    weights = [weight for weight in model.parameters() if weight.requires_grad]

    def gradient(image: Tensor, label: Tensor) -> Tensor:
        loss = cross_entropy(model(image[None]), label[None])
        parts = torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True)
        return torch.cat([part.flatten() for part in parts])

    return torch.stack([gradient(image, label) for image, label in zip(x, y, strict=True)])


def cosines(gradients: Tensor) -> Tensor:
    return cosine_similarity(gradients, gradients.mean(dim=0, keepdim=True), eps=1e-300)


def agree(model: nn.Module, x: Tensor, y: Tensor, *, atol: float = 1e-8) -> None:
    """Both scores of a network in train mode are those of its gradients in eval mode."""
    with torch.no_grad():
        cosine, dot = ghost.cosine(model, x, y), ghost.dot(model, x, y)
    gradients = by_autograd(model.eval(), x, y)
    torch.testing.assert_close(cosine, cosines(gradients), atol=atol, rtol=0)
    torch.testing.assert_close(dot, gradients @ gradients.mean(dim=0), atol=atol, rtol=atol)


def shaken(model: nn.Module) -> nn.Module:
    """No weight and no statistic is where initialisation leaves it: scales of 1 and shifts of 0 hide mistakes."""
    for value in (*model.parameters(), *model.buffers()):
        if value.is_floating_point():
            value.data.add_(torch.rand_like(value), alpha=0.3)
    return model


class Residual(nn.Module):
    """x + layers(x), or with the sum done in place."""

    def __init__(self, *layers: nn.Module, inplace: bool = False):
        super().__init__()
        self.layers, self.inplace = nn.Sequential(*layers), inplace

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return out.add_(x) if self.inplace else out + x


class Scale(nn.Module):
    """No layer that torch knows: a weight for every channel, used twice."""

    def __init__(self, channels: int):
        super().__init__()
        self.w, self.unused = nn.Parameter(torch.rand(channels)), nn.Parameter(torch.rand(2))

    def forward(self, x: Tensor) -> Tensor:
        w = self.w.reshape(-1, *[1] * (x.dim() - 2))
        return torch.sin(x * w) + w**2


class Around(nn.Module):
    """Owns a weight beside layers that own theirs, as a vision transformer does."""

    def __init__(self, *layers: nn.Module):
        super().__init__()
        self.inner, self.w = nn.Sequential(*layers), nn.Parameter(torch.rand(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(self.w * x) * (1 + self.w)


class Tokens(nn.Module):
    """Images [B, C, ...] as sequences [B, T, C]."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2).mT.contiguous()


def relu(draw: st.DrawFn) -> nn.Module:
    return draw(st.sampled_from([nn.ReLU(), nn.ReLU(inplace=True), nn.Softplus(), nn.Identity()]))


def convolution(draw: st.DrawFn, dims: int, channels: int, wide: bool) -> tuple[nn.Module, int]:
    groups, out, kernel = draw(st.sampled_from([1, 2])), draw(st.sampled_from([2, 4])), draw(st.integers(1, 3))
    stride, dilation = draw(st.sampled_from([(1, 1), (2, 1), (1, 2) if wide else (1, 1)]))
    padding: int | str = draw(st.sampled_from([0, 1, 2, "same", "valid"]))
    stride = 1 if padding == "same" else stride
    mode = draw(st.sampled_from(["zeros", "zeros", "reflect", "replicate", "circular"]))
    layer: Callable[..., nn.Module] = nn.Conv2d if dims == 2 else nn.Conv1d
    size: Any = (kernel, draw(st.integers(1, 3))) if dims == 2 else kernel
    bias = draw(st.booleans())
    return layer(
        channels, out, size, stride, padding, dilation=dilation, groups=groups, bias=bias, padding_mode=mode
    ), out


def norm(draw: st.DrawFn, dims: int, channels: int) -> nn.Module:
    affine = draw(st.sampled_from([True, True, False]))
    batch = nn.BatchNorm2d(channels, affine=affine) if dims == 2 else nn.BatchNorm1d(channels, affine=affine)
    others = [nn.GroupNorm(2, channels, affine=affine), nn.PReLU(channels), Scale(channels)]
    return draw(st.sampled_from([batch, batch, *others]))


@st.composite
def networks(draw: st.DrawFn) -> tuple[nn.Module, Tensor, Tensor]:
    """A small random network, float64 and in train mode, and its batch."""
    torch.manual_seed(draw(st.integers(0, 99)))
    dims, channels = draw(st.integers(1, 2)), 2
    x = torch.rand(draw(st.integers(1, 5)), channels, *(9, 8)[:dims], dtype=torch.float64)
    layers: list[nn.Module] = []
    for i in range(draw(st.integers(1, 2))):
        layer, channels = convolution(draw, dims, channels, wide=i == 0)
        layers += [layer, norm(draw, dims, channels), relu(draw)]
        if draw(st.booleans()):
            one: Any = nn.Conv2d if dims == 2 else nn.Conv1d
            layers.append(Residual(nn.Softplus(), one(channels, channels, 1), inplace=draw(st.booleans())))
    if draw(st.booleans()):
        layers += [Tokens(), nn.LayerNorm(channels), nn.Linear(channels, 3, bias=draw(st.booleans())), relu(draw)]
    layers.append(nn.Flatten())
    size = nn.Sequential(*layers).double().eval()(x).shape[1]
    layers += [nn.Linear(size, 6), nn.BatchNorm1d(6), relu(draw), nn.LayerNorm(6), nn.Linear(6, 4)]
    around = draw(st.sampled_from([None, None, Around]))
    model = (around or nn.Sequential)(*layers)
    for weight in model.parameters():
        weight.requires_grad_(draw(st.sampled_from([True, True, True, False])))
    next(model.parameters()).requires_grad_()
    return shaken(model.double()).train(), x, torch.randint(4, (len(x),))


@given(networks())
@settings(max_examples=80)
def test_random_networks_score_as_by_autograd(network: tuple[nn.Module, Tensor, Tensor]) -> None:
    agree(*network)


def small_resnet() -> nn.Module:
    """A ResNet-18 for small images, with an eighth of the channels in its first half."""
    model = ResNet(BasicBlock, [2, 2, 2, 2], num_classes=10)
    model.conv1, model.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()  # type: ignore[assignment]
    return shaken(model)
