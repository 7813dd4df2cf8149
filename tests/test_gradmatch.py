"""Gradient matching over all parameters, compared with one gradient per sample by autograd."""

import copy
import gc
import weakref
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.functional import cosine_similarity, cross_entropy
from torch.utils.checkpoint import checkpoint

from seladv.selection import gradmatch, gradmatch_layers, gradmatch_products
from seladv.training.models import mnist_cnn, resnet18_cifar


def by_autograd(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Gradients [B, parameters] of each sample's loss with respect to all parameters that require one."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]

    def gradient(image: Tensor, label: Tensor) -> Tensor:
        loss = cross_entropy(model(image[None]), label[None])
        parts = torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True)
        return torch.cat([part.flatten() for part in parts])

    return torch.stack([gradient(image, label) for image, label in zip(x, y, strict=True)])


def cosines(gradients: Tensor) -> Tensor:
    return cosine_similarity(gradients, gradients.mean(dim=0, keepdim=True), eps=1e-300)


def agree(model: nn.Module, x: Tensor, y: Tensor, *, atol: float = 1e-8) -> None:
    """Both scores are those of the gradients in eval mode, whatever mode the network is in."""
    with torch.no_grad():
        cosine, dot = gradmatch.cosine(model, x, y), gradmatch.dot(model, x, y)
    gradients = by_autograd(model.eval(), x, y)
    torch.testing.assert_close(cosine, cosines(gradients), atol=atol, rtol=0)
    torch.testing.assert_close(dot, gradients @ gradients.mean(dim=0), atol=atol, rtol=atol)


def shaken(model: nn.Module) -> nn.Module:
    """Move every weight and statistic away from its initial value: scales of 1 and shifts of 0 hide mistakes."""
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
    """A layer without a fast rule: a weight for every channel, used twice."""

    def __init__(self, channels: int):
        super().__init__()
        self.w, self.unused = nn.Parameter(torch.rand(channels)), nn.Parameter(torch.rand(2))

    def forward(self, x: Tensor) -> Tensor:
        w = self.w.reshape(-1, *[1] * (x.dim() - 2))
        return torch.sin(x * w) + w**2


class Around(nn.Module):
    """Owns a weight and has layers with their own, as a vision transformer does."""

    def __init__(self, *layers: nn.Module):
        super().__init__()
        self.inner, self.w = nn.Sequential(*layers), nn.Parameter(torch.rand(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(self.w * x) * (1 + self.w)


class Tokens(nn.Module):
    """Images [B, C, ...] as sequences [B, T, C].

    The product with the unit matrix makes the gradient contiguous. Without it, torch 2.14 computes a wrong gradient in
    batch norm on a CPU, in eval mode, for a batch of one, which the reference needs.
    """

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(2)
        return torch.eye(x.shape[1], dtype=x.dtype).expand(len(x), -1, -1).bmm(x).mT.contiguous()


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


@pytest.mark.parametrize(("most", "scratch"), [(4, 2**20), (4, 64), (0, 64)], ids=["whole", "by parts", "Gram"])
@given(network=networks())
@settings(max_examples=80)
def test_random_networks(network: tuple[nn.Module, Tensor, Tensor], most: int, scratch: int) -> None:
    """Small layers' gradients are stored, all at once or in parts; with `most` = 0, no convolution's."""
    with patch.object(gradmatch_layers, "MOST", most), patch.dict(gradmatch_products.SCRATCH, cpu=scratch):
        agree(*network)


def batch_of(size: int, *shape: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.rand(size, *shape), torch.randint(10, (size,))


def test_mnist_network() -> None:
    torch.manual_seed(0)
    selects_the_same(mnist_cnn().to(memory_format=torch.channels_last), *batch_of(8, 1, 28, 28))


def test_resnet() -> None:
    torch.manual_seed(0)
    model, (x, y) = resnet18_cifar().to(memory_format=torch.channels_last), batch_of(6, 3, 32, 32)  # type: ignore[call-overload]
    model.train()(x)  # moves batch norm's statistics
    selects_the_same(model.eval(), x, y)


def selects_the_same(model: nn.Module, x: Tensor, y: Tensor) -> None:
    """In fp32: cosines within 1e-3, and the same best half but for ties within that."""
    expected, scores = cosines(by_autograd(model, x, y)), gradmatch.cosine(model, x, y)
    torch.testing.assert_close(scores, expected, atol=1e-3, rtol=0)
    assert scores.dtype == torch.float32
    k = len(x) // 2
    torch.testing.assert_close(expected[scores.topk(k).indices], expected.topk(k).values, atol=1e-3, rtol=0)


@pytest.mark.parametrize("groups", [1, 2])
def test_wide_layers(groups: int) -> None:
    """Over few positions their norms come from Gram matrices and not from stored gradients."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(16, 16, 3, groups=groups), nn.Softplus(), Tokens(), nn.Linear(16, 10), nn.Softplus()]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(40, 10)).double()
    agree(model, torch.rand(5, 16, 4, 4).double(), torch.arange(5))


def test_hooks_may_replace_outputs() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), Scale(4), nn.Linear(4, 4)).double()
    for layer in model:
        layer.register_forward_hook(lambda _, inputs, output: torch.sin(output))
    agree(model, torch.rand(3, 4).double(), torch.tensor([0, 1, 2]))


def test_bf16_is_close_to_fp32() -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, 2), nn.PReLU(), nn.Flatten()]
    model, (x, y) = nn.Sequential(*layers, nn.Linear(72, 10)), batch_of(16, 3, 9, 9)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        model.eval()(x)  # leaves weights cast without gradient in autocast's cache, where it keeps such
        scores, dots = gradmatch.cosine(model, x, y), gradmatch.dot(model, x, y)
    assert scores.dtype == dots.dtype == torch.float32
    for found, true in ((scores, gradmatch.cosine(model, x, y)), (dots, gradmatch.dot(model, x, y))):
        assert torch.corrcoef(torch.stack([found, true]))[0, 1] > 0.99


def test_no_gradient_scores_zero() -> None:
    model, x = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False)), torch.tensor([[1.0, 0], [0, 0], [0.5, 1]])
    for score in (gradmatch.cosine, gradmatch.dot):
        scores = score(model, x, torch.tensor([0, 1, 1]))
        assert scores[1] == 0
        assert scores.isfinite().all()
    assert gradmatch.cosine(model, torch.zeros(3, 2), torch.tensor([0, 1, 1])).tolist() == [0, 0, 0]
    assert gradmatch.cosine(model, x[:0], torch.tensor([], dtype=torch.int64)).shape == (0,)


def test_confident_samples() -> None:
    torch.manual_seed(0)
    model, x = nn.Linear(3, 3).double(), torch.rand(4, 3).double()
    with torch.no_grad():
        model.weight.mul_(20)
        model.bias.copy_(torch.tensor([40.0, 0, 0]))
    y = torch.zeros(4, dtype=torch.int64)
    exact = gradmatch.cosine(model, x, y)
    others = model(x)[:, 1:]  # (p - onehot) ∝ [-(b + c), b, c], which does not cancel as in p - 1
    errors = torch.cat([-others.exp().sum(dim=1, keepdim=True), others.exp()], dim=1) * (-model(x)[:, :1]).exp()
    gradients = errors[:, :, None] * torch.cat([x, torch.ones(4, 1)], dim=1)[:, None]
    torch.testing.assert_close(exact, cosines(gradients.flatten(1) / gradients.abs().max()), atol=1e-8, rtol=0)
    torch.testing.assert_close(gradmatch.cosine(model.float(), x.float(), y).double(), exact, atol=1e-4, rtol=0)


class Tied(nn.Module):
    """`run(self, x)`: a network that uses its layers in ways that have no layer-wise gradient."""

    def __init__(self, run: Callable[[Any, Tensor], Tensor]):
        super().__init__()
        self.first, self.second, self.norm, self.run = nn.Linear(4, 4), nn.Linear(4, 4), nn.BatchNorm1d(4), run
        self.scale, self.listed = Scale(4), nn.ParameterList([torch.ones(4)])

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


def shared() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    model[2].weight = model[0].weight
    return model


def in_place(model: Any, x: Tensor) -> Tensor:
    hidden = model.first(x) * 1
    out = model.scale(hidden)
    hidden.zero_()
    return out


def train_mode(model: Any, x: Tensor) -> Tensor:
    return model.norm.train()(x)


class Changing(Scale):
    """Multiplies in place."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mul_(self.w)


def hooked() -> nn.Module:
    model = nn.Sequential(Scale(4))
    model[0].register_forward_pre_hook(lambda *_: None)
    return model


REFUSED = {
    "shared": (shared(), r"2 \(Linear\) shares its weight with 0 \(Linear\)"),
    "one module in two places": (nn.Sequential(*[nn.Linear(4, 4)] * 2), r"0 \(Linear\) runs more than once"),
    "twice": (Tied(lambda m, x: m.first(m.first(x))), r"first \(Linear\) runs more than once"),
    "elsewhere": (Tied(lambda m, x: F.linear(m.second(x), m.first.weight)), r"first \(Linear\) is used outside"),
    "elsewhere, too": (Tied(lambda m, x: m.first(x * m.first.bias)), r"first \(Linear\) is used outside"),
    "never run": (Tied(lambda m, x: m.first(x) * m.listed[0]), r"listed \(ParameterList\) is used outside"),
    "batch elsewhere": (Tied(lambda m, x: m.first(x[None])[0]), r"first \(Linear\) does not map one tensor \[3, "),
    "in place": (Tied(in_place), r"the input of scale \(Scale\) is changed in place"),
    "its own input": (nn.Sequential(nn.Linear(4, 4), Changing(4)), r"1 \(Changing\) changes its input in place"),
    "train mode": (Tied(train_mode), r"norm \(BatchNorm1d\) is in train mode"),
    "no statistics": (
        nn.Sequential(nn.BatchNorm1d(4, affine=False, track_running_stats=False)),
        "0 .* no running stat",
    ),
    "parametrised": (nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), "parametrizations.weight .*not map one"),
    "hooked": (hooked(), r"0 \(Scale\) cannot be run by itself"),
    "no parameter": (nn.Flatten(), "the logits depend on no parameter"),
}


@pytest.mark.parametrize(("model", "message"), REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("score", [gradmatch.cosine, gradmatch.dot])
def test_unscorable_networks_are_refused(score: Callable[..., Tensor], model: nn.Module, message: str) -> None:
    with pytest.raises(ValueError, match=f"^gradmatch: .*{message}.*; take gradmatch-last"):
        score(model, torch.rand(3, 4), torch.tensor([0, 1, 2]))
    assert not any(module._forward_hooks for module in model.modules())


class Mixing(nn.Module):
    """Every sample depends on the batch's mean."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.rand(4))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.w + (x * self.w).mean(dim=0) ** 2


def test_mixing_samples_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^gradmatch: Mixing has no per-sample gradients"):
        gradmatch.cosine(nn.Sequential(Mixing()), torch.rand(3, 4), torch.tensor([0, 1, 2]))


class Attends(nn.Module):
    """Images as sequences [B, T, C], the attention that `run(attention, sequence)` makes of them, and a head."""

    def __init__(self, run: Callable[[Any, Tensor], Tensor], **options: Any):
        super().__init__()
        self.attention, self.head, self.run = nn.MultiheadAttention(4, 2, **options), nn.Linear(4, 5), run

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.run(self.attention, x.flatten(2).mT).mean(dim=1))


def sequence_first(attention: Any, x: Tensor) -> Tensor:
    x = x.transpose(0, 1)
    return attention(x, x, x)[0].transpose(0, 1)


CAUSAL = torch.ones(6, 6, dtype=torch.bool).triu(1)
ATTENTIONS = {
    "no weights": Attends(lambda m, x: m(x, x, x, need_weights=False)[0], batch_first=True),
    "named": Attends(lambda m, x: m(query=x, key=x, value=x)[0], batch_first=True),
    "mask": Attends(lambda m, x: m(x, x, x, attn_mask=CAUSAL)[0], batch_first=True),
    "no bias": Attends(lambda m, x: m(x, x, x)[0], batch_first=True, bias=False),
    "more keys": Attends(lambda m, x: m(x, x, x)[0], batch_first=True, add_bias_kv=True, dropout=0.5),
    "sequence first": Attends(sequence_first),
    "residual": nn.Sequential(Around(Attends(lambda m, x: x + m(x, x, x)[0], batch_first=True)), nn.Linear(5, 5)),
}


@pytest.mark.parametrize("model", ATTENTIONS.values(), ids=ATTENTIONS)
@pytest.mark.parametrize("frozen", [(), ("in_proj_weight",), ("out_proj.weight", "in_proj_bias")], ids=str)
def test_attention(model: nn.Module, frozen: tuple[str, ...]) -> None:
    torch.manual_seed(0)
    model = shaken(copy.deepcopy(model).double()).train()
    for name, weight in model.named_parameters():
        weight.requires_grad_(not name.endswith(frozen) or not frozen)
    agree(model, torch.rand(3, 4, 2, 3).double(), torch.tensor([0, 1, 4]))


def padded(attention: Any, x: Tensor) -> Tensor:
    return attention(x, x, x, key_padding_mask=torch.zeros(x.shape[:2], dtype=torch.bool))[0]


OTHER_ATTENTIONS = {
    "cross": Attends(lambda m, x: m(x, x.flip(1), x.flip(1))[0], batch_first=True),
    "padding": Attends(padded, batch_first=True),
    "over the batch": Attends(lambda m, x: m(x[:, 0], x[:, 0], x[:, 0])[0][:, None], batch_first=True),
    "batch and sequence mistaken": Attends(lambda m, x: m(x, x, x)[0]),
    "weights used": Attends(lambda m, x: m(x, x, x)[1] @ x, batch_first=True),
}


@pytest.mark.parametrize("model", OTHER_ATTENTIONS.values(), ids=OTHER_ATTENTIONS)
def test_other_attention_is_refused(model: nn.Module) -> None:
    with pytest.raises(ValueError, match=r"^gradmatch: .*attention \(MultiheadAttention\).*; take gradmatch-last"):
        gradmatch.cosine(model, torch.rand(3, 4, 2, 3), torch.tensor([0, 1, 4]))


@pytest.mark.parametrize(
    ("model", "shape"),
    [(ATTENTIONS["residual"], (3, 4, 2, 3)), (nn.Sequential(Around(nn.Linear(4, 4)), nn.Linear(4, 5)), (3, 4))],
)
def test_half_precision_networks(model: nn.Module, shape: tuple[int, ...]) -> None:
    """Modules that are run again, too."""
    torch.manual_seed(0)
    model, y = shaken(copy.deepcopy(model)), torch.tensor([0, 1, 4])
    x = torch.rand(shape)
    expected = gradmatch.cosine(model, x, y)
    torch.testing.assert_close(gradmatch.cosine(model.bfloat16(), x.bfloat16(), y), expected, atol=0.05, rtol=0)


class Breaking(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("broken")


@pytest.mark.parametrize("fails", [False, True])
def test_network_is_left_as_it_was(fails: bool) -> None:
    layers: list[nn.Module] = [nn.Linear(4, 4), nn.BatchNorm1d(4), Scale(4), nn.ReLU(inplace=True)]
    model = shaken(nn.Sequential(*layers, Breaking() if fails else nn.Identity())).train()
    model[1].eval()
    model[0].weight.grad = torch.ones(4, 4)
    calls: list[int] = []
    model[2].register_forward_hook(lambda *_: calls.append(1))
    state = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    x = torch.rand(3, 4, requires_grad=True)
    try:
        gradmatch.cosine(model, x, torch.tensor([0, 1, 2]))
    except RuntimeError as error:
        assert fails, error  # noqa: PT017
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()) == 1
    assert calls == [1]
    assert x.grad is None
    assert [weight.grad is None for weight in model.parameters()] == [False] + [True] * 5
    assert torch.equal(model[0].weight.grad, torch.ones(4, 4))
    assert all(weight.requires_grad for weight in model.parameters())


def test_activations_are_freed() -> None:
    model, kept = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)), []
    model[1].register_forward_hook(lambda _, inputs, output: kept.extend(map(weakref.ref, (inputs[0], output))))
    gc.disable()
    try:
        gradmatch.cosine(model, torch.rand(3, 4), torch.tensor([0, 1, 2]))
        assert len(kept) == 2
        assert not any(tensor() is not None for tensor in kept)
    finally:
        gc.enable()


def test_no_weight_gradient_is_computed() -> None:
    model, seen = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)), []
    for weight in model.parameters():
        weight.register_hook(seen.append)
    gradmatch.cosine(model, torch.rand(3, 4), torch.tensor([0, 1, 2]))
    assert not seen


def test_checkpointed_layers() -> None:
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    model = Residual(inner).double()
    x, y = torch.rand(3, 4).double(), torch.tensor([0, 1, 2])
    expected = gradmatch.cosine(model, x, y)
    inner.forward = lambda x: checkpoint(nn.Sequential(*inner), x, use_reentrant=False)  # type: ignore[method-assign]
    torch.testing.assert_close(gradmatch.cosine(model, x, y), expected)
