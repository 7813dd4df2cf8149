"""The attack as a CUDA graph takes the same steps; on a CPU with a capture that only remembers the call."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import random_network
from torch import Tensor, nn

from seladv.attack import ascend, pgd
from seladv.graph import Graphed, cuda_graph

ATTACK: dict[str, Any] = {"eps": 0.2, "step_size": 0.05, "steps": 3, "start": 0.0}
Batches = list[tuple[Tensor, Tensor]]


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
