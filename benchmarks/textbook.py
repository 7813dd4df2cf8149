"""The attack as public repositories run it: what the study's own has to beat."""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy


def mnist_cnn() -> nn.Module:
    """The paper's MNIST network in the usual order, ReLU before pooling; takes `seladv.models.mnist_cnn`'s weights."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * 12 * 12, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    )


def pgd(model: nn.Module, x: Tensor, y: Tensor, *, eps: float, step_size: float, steps: int) -> Tensor:
    """PGD in fp32 whose `loss.backward()` computes every weight's gradient too, for nobody.

    Args:
        model: in eval mode, so that every contestant attacks the same function.
        x, y: images [B, C, H, W] in [0, 1] and classes [B].
        eps, step_size, steps: as in `seladv.attack.pgd`.
    """
    delta = torch.zeros_like(x).uniform_(-eps, eps)
    delta = torch.clamp(x + delta, 0, 1) - x
    for _ in range(steps):
        delta = delta.detach()
        delta.requires_grad = True
        loss = cross_entropy(model(x + delta), y)
        model.zero_grad()
        loss.backward()
        assert delta.grad is not None
        delta = delta.detach() + step_size * torch.sign(delta.grad.detach())
        delta = torch.clamp(delta, -eps, eps)
        delta = torch.clamp(x + delta, 0, 1) - x
    return (x + delta).detach()
