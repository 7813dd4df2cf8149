"""The folded copy computes what the network does, and leaves it alone; as a CUDA graph the attack takes the same steps.

On a CPU the graph is a capture that only remembers the call.
"""

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from conftest import random_network
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from seladv import frozen
from seladv.attack import ascend, eval_mode, pgd
from seladv.data.images import Images
from seladv.frozen import Frozen, Graphed, cuda_graph
from seladv.training import models

ATTACK: dict[str, Any] = {"eps": 0.2, "step_size": 0.05, "steps": 3, "start": 0.0}
Batches = list[tuple[Tensor, Tensor]]


# ---- the folded copy


class PerPosition(nn.Module):
    """Batch norm over dimension 1 of a linear layer's output [B, T, T], which is not the one that the layer makes."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm, self.head = nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.norm(self.layer(x.flatten(1, 2))).flatten(1))
        return logits


class Branch(nn.Module):
    """Decides by the images' values, so it cannot be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layer(x.flatten(1) if x.mean() > 0 else -x.flatten(1))
        return logits


def twice() -> nn.Module:
    """One convolution before two batch norms."""
    layer = nn.Conv2d(1, 4, 3, padding=1)
    more = nn.Sequential(nn.Conv2d(4, 1, 1), layer, nn.BatchNorm2d(4))
    return nn.Sequential(layer, nn.BatchNorm2d(4), more, nn.Flatten(), nn.Linear(256, 10))


def hooked() -> nn.Module:
    model = random_network()
    model.register_forward_hook(lambda module, inputs, logits: 2 * logits)
    return model


def after_a_linear_layer() -> nn.Module:
    layers = nn.Linear(64, 16, bias=False), nn.BatchNorm1d(16, affine=False)
    return nn.Sequential(nn.Flatten(), *layers, nn.ReLU(), nn.Linear(16, 10))


def vit() -> nn.Module:
    model: nn.Module = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, num_classes=10)
    return model


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {  # and how many batch norms are folded
    "resnet18": (lambda: models.build("resnet18-narrow", seed=0), (3, 32, 32), 20),
    "timm": (lambda: timm.create_model("resnet10t", num_classes=10), (3, 64, 64), 14),
    "vit": (vit, (3, 32, 32), 0),
    "after a linear layer": (after_a_linear_layer, (1, 8, 8), 1),
    "per position": (PerPosition, (1, 8, 8), 0),
    "a layer twice": (twice, (1, 8, 8), 0),
    "hooked": (hooked, (1, 8, 8), 0),
    "not traced": (Branch, (1, 8, 8), 0),
}


def shaken(model: nn.Module) -> None:
    """Other weights and statistics, in place, as training moves them."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                module.running_mean.normal_()  # type: ignore[union-attr]
                module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn_like(weight))


@pytest.mark.parametrize(("build", "shape", "folded"), NETWORKS.values(), ids=NETWORKS)
def test_copy_computes_the_same(build: Callable[[], nn.Module], shape: tuple[int, ...], folded: int) -> None:
    torch.manual_seed(0)
    model = build().double().train()
    x = torch.rand(4, *shape, dtype=torch.float64)
    copied = Frozen(model, x[:2])
    shaken(model)
    network = copied.refold()
    norms = [sum(isinstance(module, _BatchNorm) for module in each.modules()) for each in (model, network)]
    assert norms[0] - norms[1] == folded
    assert all(module.training for module in model.modules())
    assert all(weight.requires_grad and weight.grad is None for weight in model.parameters())
    with eval_mode(model), torch.no_grad():
        torch.testing.assert_close(network(x), model(x), rtol=1e-10, atol=1e-10)


def test_copy_is_cast_once(digits: dict[str, Images]) -> None:
    model, x = models.build("digits-cnn", seed=0), digits["test"].batch(torch.arange(8))[0]
    network = Frozen(model, x, dtype=torch.bfloat16).refold()
    assert {weight.dtype for weight in network.parameters()} == {torch.bfloat16}
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert not any(weight.requires_grad for weight in network.parameters())
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(network(x), model(x))


def test_a_wrong_copy_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_network()
    x = torch.rand(2, 1, 8, 8)
    shaken(model)
    monkeypatch.setattr(frozen, "fuse_conv_bn_weights", lambda weight, bias, *others: (weight, others[0]))
    assert Frozen(model, x).refold() is model


class Gated(nn.Module):
    """A gate that no gradient goes through: tracing loses that."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.layer = nn.Linear(64, 64), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        with torch.no_grad():
            gate = 5 * self.gate(x).tanh()
        logits: Tensor = self.layer(gate * x)
        return logits


def test_a_copy_with_another_gradient_is_not_used() -> None:
    torch.manual_seed(0)
    model = Gated()
    assert Frozen(model, torch.rand(2, 1, 8, 8)).refold() is model


CHANGES: dict[str, Callable[[nn.Module], object]] = {
    "data": lambda model: [setattr(weight, "data", weight.data + 0.1) for weight in model.parameters()],
    "assigned": lambda model: model.load_state_dict(
        {key: value + 0.1 if value.is_floating_point() else value for key, value in model.state_dict().items()},
        assign=True,
    ),
    "there and back": lambda model: (model.half(), shaken(model.float())),
}


@pytest.mark.parametrize("dtype", [None, torch.float32])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_weights_may_move(change: Callable[[nn.Module], object], dtype: torch.dtype | None) -> None:
    torch.manual_seed(0)
    model, x = models.build("resnet18-narrow", seed=0), torch.rand(4, 3, 32, 32)
    copied = Frozen(model, x[:2], dtype=dtype)
    change(model)
    with eval_mode(model), torch.no_grad():
        torch.testing.assert_close(copied.refold()(x), model(x), rtol=1e-3, atol=1e-3)
        assert copied.network is not model


BROKEN: dict[str, Callable[[Any], object]] = {
    "layer": lambda model: setattr(model[1], "fc", nn.Linear(128, 10)),
    "norm": lambda model: setattr(model[1], "bn1", nn.BatchNorm2d(16)),
    "hook": lambda model: model[1].fc.register_forward_hook(lambda module, inputs, logits: 2 * logits),
    "format": lambda model: model.half(),
}


@pytest.mark.parametrize("change", BROKEN.values(), ids=BROKEN)
def test_other_changes_are_refused(change: Callable[[Any], object]) -> None:
    model = models.build("resnet18-narrow", seed=0)
    copied = Frozen(model, torch.rand(2, 3, 32, 32))
    change(model)
    with pytest.raises(ValueError, match=r"^frozen: the network's layers, hooks, .* changed; make a new Frozen$"):
        copied.refold()


def test_an_example_that_does_not_fit_is_an_error() -> None:
    with pytest.raises((ValueError, RuntimeError)):
        Frozen(models.build("resnet18-narrow", seed=0), torch.rand(3, 32, 32)[:, 0])


# ---- the graph


class Recorder:
    """Replaces `cuda_graph`: a replay does the call again, into the tensor that the first one gave."""

    def __init__(self) -> None:
        self.captures, self.replays = 0, 0

    def __call__(self, call: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        self.captures += 1
        result = call()

        def replay() -> None:
            self.replays += 1
            result.copy_(call())

        return replay, result


@pytest.fixture
def batches() -> Batches:
    generator = torch.Generator().manual_seed(0)
    return [(torch.rand(6, 1, 8, 8, generator=generator), torch.arange(6) % 3) for _ in range(4)]


def graphed() -> tuple[nn.Module, Graphed, Recorder]:
    model, recorder = random_network(), Recorder()
    return model, Graphed(model, capture=recorder), recorder


def test_replays_follow_the_weights(batches: Batches) -> None:
    model, steps, recorder = graphed()
    for x, y in batches:
        assert torch.equal(pgd(model, x, y, **ATTACK, ascend=steps), pgd(model, x, y, **ATTACK))
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(0.3 * torch.randn_like(weight))
    assert (recorder.captures, recorder.replays) == (1, 3)  # one replay is the comparison


def test_results_outlive_the_next_replay(batches: Batches) -> None:
    model, steps, _ = graphed()
    results = [pgd(model, x, y, **ATTACK, ascend=steps) for x, y in batches]
    for (x, y), result in zip(batches, results, strict=True):
        assert torch.equal(result, pgd(model, x, y, **ATTACK))


def test_one_graph_per_shape_format_and_steps(batches: Batches) -> None:
    model, steps, recorder = graphed()
    x, y = batches[0]
    for _ in range(3):
        pgd(model, x, y, **ATTACK, ascend=steps)
        pgd(model, x[:4], y[:4], **ATTACK, ascend=steps)
        pgd(model, x, y, **ATTACK | {"steps": 2}, ascend=steps)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            pgd(model, x, y, **ATTACK, ascend=steps)
    assert recorder.captures == len(steps.captured) == 4


def test_a_shape_seen_once_is_not_captured(batches: Batches) -> None:
    model, steps, recorder = graphed()
    x, y = batches[0]
    for count in range(1, 7):
        pgd(model, x[:count], y[:count], **ATTACK, ascend=steps)
    assert recorder.captures == 0


def test_another_network_is_attacked_plainly(batches: Batches) -> None:
    _, steps, recorder = graphed()
    other = random_network()
    for x, y in batches:
        assert torch.equal(pgd(other, x, y, **ATTACK, ascend=steps), pgd(other, x, y, **ATTACK))
    assert recorder.captures == 0


def wrong(call: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
    return lambda: None, torch.rand_like(call())


def unable(call: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
    raise RuntimeError("operation not permitted when stream is capturing")


@pytest.mark.parametrize(("capture", "reason"), [(wrong, "of the pixels elsewhere"), (unable, "not permitted")])
def test_a_failed_graph_warns_once(batches: Batches, capture: Any, reason: str) -> None:
    model = random_network()
    steps = Graphed(model, capture=capture)
    with pytest.warns(UserWarning, match=f"without a CUDA graph: .*{reason}") as warned:
        results = [pgd(model, x, y, **ATTACK, ascend=steps) for x, y in batches]
    assert len(warned) == 1
    assert not steps.captured
    for (x, y), result in zip(batches, results, strict=True):
        assert torch.equal(result, pgd(model, x, y, **ATTACK))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="a CUDA graph needs a GPU")
@pytest.mark.parametrize("number_format", [torch.float32, torch.bfloat16])
def test_a_real_graph_follows_the_weights(batches: Batches, number_format: torch.dtype) -> None:
    model = random_network().cuda()
    steps = Graphed(model, capture=cuda_graph)
    for x, y in batches:
        x, y = x.cuda(), y.cuda()
        with torch.autocast("cuda", dtype=number_format, enabled=number_format != torch.float32):
            ours, plain = pgd(model, x, y, **ATTACK, ascend=steps), pgd(model, x, y, **ATTACK, ascend=ascend)
        assert (ours != plain).float().mean() < 0.05
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(0.3 * torch.randn_like(weight))
    assert len(steps.captured) == 1
