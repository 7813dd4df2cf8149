"""The closed form of `gradmatch-last`, compared with per-sample gradients by autograd."""

import pytest
import torch
from conftest import Network
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.functional import cosine_similarity, cross_entropy

from seladv.selection import SELECTORS
from seladv.selection.last_layer import last_layer_cosine


def by_autograd(model: nn.Sequential, x: Tensor, y: Tensor) -> Tensor:
    """Cosine [B] of each sample's last-layer gradient with the mean gradient."""
    last, features = model[-1], model[:-1](x).detach()

    def loss(weights: dict[str, Tensor], feature: Tensor, label: Tensor) -> Tensor:
        return cross_entropy(functional_call(last, weights, feature[None]), label[None])

    weights = {name: weight.detach() for name, weight in last.named_parameters()}
    gradients = vmap(grad(loss), (None, 0, 0))(weights, features, y)
    flat = torch.cat([gradient.flatten(1) for gradient in gradients.values()], dim=1)
    return cosine_similarity(flat, flat.mean(dim=0, keepdim=True))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_matches_autograd(network: Network, batch: tuple[Tensor, Tensor], seed: int, bias: bool) -> None:
    model, (x, y) = network(seed, bias=bias).eval(), batch
    expected = by_autograd(model, x, y)  # type: ignore[arg-type]
    torch.testing.assert_close(last_layer_cosine(model, x, y), expected, atol=1e-5, rtol=0)
    for k in (1, 8, len(x)):
        chosen = SELECTORS["gradmatch-last"](model, x, y, k)
        best = expected.topk(k).values
        torch.testing.assert_close(expected[chosen], best, atol=2e-5, rtol=0)  # the same ones, but for ties


def test_the_bias_counts(network: Network, batch: tuple[Tensor, Tensor]) -> None:
    model, (x, y) = network().eval(), batch
    with_bias = last_layer_cosine(model, x, y)
    logits = model(x)
    last = model[-1]  # type: ignore[index]
    last.bias = None
    without = last_layer_cosine(model, x, y)
    assert not torch.allclose(logits, model(x))
    assert not torch.allclose(with_bias, without)


def test_no_gradient_scores_zero() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False))
    x = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.5, 1.0]])  # the second one's features are zero, so is its gradient
    assert last_layer_cosine(model, x, torch.tensor([0, 1, 1]))[1] == 0


def test_confident_sample() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        model[1].weight.copy_(torch.eye(2))
    x = torch.tensor([[60.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    cosines = last_layer_cosine(model, x, torch.tensor([0, 1, 0]))
    assert cosines.abs().max() <= 1 + 1e-6


class Backwards(nn.Module):
    """Its last registered `nn.Linear` is its first layer."""

    def __init__(self) -> None:
        super().__init__()
        self.out, self.inner = nn.Linear(10, 10), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.inner(x.flatten(1)))


class Twice(nn.Module):
    """Runs its only `nn.Linear` twice."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 64)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.layer(x.flatten(1)))


@pytest.mark.parametrize(
    "model",
    [nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.LogSoftmax(dim=1)), Backwards(), Twice()],
    ids=["softmax at the end", "layers in another order", "a shared layer"],
)
def test_other_last_layers_are_refused(batch: tuple[Tensor, Tensor], model: nn.Module) -> None:
    with pytest.raises(
        ValueError, match=r"^gradmatch-last: the logits of \w+ are not its last nn\.Linear's output; take gradmatch "
    ):
        last_layer_cosine(model, *batch)
    assert not any(module._forward_hooks for module in model.modules())


def test_no_linear_layer_is_refused(batch: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(ValueError, match=r"^gradmatch-last: Flatten has no nn\.Linear"):
        last_layer_cosine(nn.Flatten(), *batch)
