"""The attack as a CUDA graph: the same steps, counted; on a CPU with a capture that only remembers the call."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import random_network
from torch import Tensor, nn

from seladv.attack import ascend, pgd
from seladv.cost import Meter
from seladv.graph import Graphed, cuda_graph

CPU = torch.device("cpu")
ATTACK: dict[str, Any] = {"eps": 0.2, "step_size": 0.05, "steps": 3, "start": 0.0}


class Recorder:
    """Stands for `cuda_graph`: a replay does the call again, uncounted, into the tensor that the first one gave."""

    def __init__(self, meter: Meter) -> None:
        self.meter, self.captures, self.replays = meter, 0, 0

    def __call__(self, call: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        self.captures += 1
        result = call()

        def replay() -> None:
            self.replays += 1
            with self.meter.pause():
                result.copy_(call())

        return replay, result


@pytest.fixture
def batches() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [(torch.rand(6, 1, 8, 8, generator=generator), torch.arange(6) % 3) for _ in range(4)]


def graphed(capture: Any = None) -> tuple[nn.Module, Graphed, Meter, Recorder]:
    model = random_network()
    meter = Meter(model, CPU)
    recorder = Recorder(meter)
    return model, Graphed(model, meter, capture=capture or recorder), meter, recorder


def test_replays_take_the_plain_steps_batch_by_batch_and_follow_the_weights(
    batches: list[tuple[Tensor, Tensor]],
) -> None:
    model, steps, _, recorder = graphed()
    for x, y in batches:
        assert torch.equal(pgd(model, x, y, **ATTACK, ascend=steps), pgd(model, x, y, **ATTACK))
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(0.3 * torch.randn_like(weight))
    assert (recorder.captures, recorder.replays) == (1, 3)  # one replay is the comparison


def test_an_earlier_result_outlives_the_next_replay(batches: list[tuple[Tensor, Tensor]]) -> None:
    model, steps, *_ = graphed()
    results = [pgd(model, x, y, **ATTACK, ascend=steps) for x, y in batches]
    for (x, y), result in zip(batches, results, strict=True):
        assert torch.equal(result, pgd(model, x, y, **ATTACK))


def test_every_pass_is_counted_once_captured_or_not(batches: list[tuple[Tensor, Tensor]]) -> None:
    model, steps, meter, recorder = graphed()
    for x, y in batches:
        with meter("attack"):
            pgd(model, x, y, **ATTACK, ascend=steps)
        passes = meter.take()["passes"]["attack"]
        assert passes == {"forward": 18, "input_grad": 18, "weight_grad": 0}
    assert recorder.replays == 3


def test_another_shape_another_number_format_and_other_steps_have_a_graph_of_their_own(
    batches: list[tuple[Tensor, Tensor]],
) -> None:
    model, steps, _, recorder = graphed()
    x, y = batches[0]
    for _ in range(3):
        pgd(model, x, y, **ATTACK, ascend=steps)
        pgd(model, x[:4], y[:4], **ATTACK, ascend=steps)
        pgd(model, x, y, **ATTACK | {"steps": 2}, ascend=steps)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            pgd(model, x, y, **ATTACK, ascend=steps)
    assert recorder.captures == len(steps.captured) == 4


def test_a_shape_that_never_comes_again_is_not_captured(batches: list[tuple[Tensor, Tensor]]) -> None:
    model, steps, _, recorder = graphed()
    x, y = batches[0]
    for count in range(1, 7):
        pgd(model, x[:count], y[:count], **ATTACK, ascend=steps)
    assert recorder.captures == 0


def test_another_network_is_attacked_plainly(batches: list[tuple[Tensor, Tensor]]) -> None:
    _, steps, _, recorder = graphed()
    other = random_network()
    for x, y in batches:
        assert torch.equal(pgd(other, x, y, **ATTACK, ascend=steps), pgd(other, x, y, **ATTACK))
    assert recorder.captures == 0


def wrong(call: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
    return lambda: None, torch.rand_like(call())


def unable(call: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
    raise RuntimeError("operation not permitted when stream is capturing")


@pytest.mark.parametrize(("capture", "reason"), [(wrong, "of the pixels elsewhere"), (unable, "not permitted")])
def test_a_graph_that_differs_or_cannot_be_had_is_told_once_and_not_used(
    batches: list[tuple[Tensor, Tensor]], capture: Any, reason: str
) -> None:
    model, steps, *_ = graphed(capture)
    with pytest.warns(UserWarning, match=f"without a CUDA graph: .*{reason}") as told:
        results = [pgd(model, x, y, **ATTACK, ascend=steps) for x, y in batches]
    assert len(told) == 1
    assert not steps.captured
    for (x, y), result in zip(batches, results, strict=True):
        assert torch.equal(result, pgd(model, x, y, **ATTACK))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="a CUDA graph needs a GPU")
@pytest.mark.parametrize("number_format", [torch.float32, torch.bfloat16])
def test_a_real_graph_follows_the_weights(batches: list[tuple[Tensor, Tensor]], number_format: torch.dtype) -> None:
    model = random_network().cuda()
    steps = Graphed(model, Meter(model, torch.device("cuda")), capture=cuda_graph)
    for x, y in batches:
        x, y = x.cuda(), y.cuda()
        with torch.autocast("cuda", dtype=number_format, enabled=number_format != torch.float32):
            ours, plain = pgd(model, x, y, **ATTACK, ascend=steps), pgd(model, x, y, **ATTACK, ascend=ascend)
        assert (ours != plain).float().mean() < 0.05
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(0.3 * torch.randn_like(weight))
    assert len(steps.captured) == 1
