"""The attack's steps as a CUDA graph: some thousand kernels launched at once instead of one by one."""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from seladv.attack import ascend

Capture = Callable[[Callable[[], Tensor]], tuple[Callable[[], None], Tensor]]

APART = 0.1  # share of the pixels that the first replay may move elsewhere: rounding moves few, a wrong graph most


def cuda_graph(call: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
    """Capture `call`: what replays it, and the tensor that a replay writes its result to."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # a call outside of the graph first: libraries choose and allocate
        call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = call()
    return graph.replay, result


class Captured(NamedTuple):
    """A graph with the buffers that it reads and the one that it writes."""

    inputs: tuple[Tensor, ...]
    replay: Callable[[], None]
    result: Tensor

    def __call__(self, *inputs: Tensor) -> Tensor:
        for buffer, value in zip(self.inputs, inputs, strict=True):
            buffer.copy_(value)
        self.replay()
        return self.result.clone()  # the next replay overwrites it


class Graphed:
    """`attack.ascend` of one network: plain at first, captured for a shape that comes again, and replayed from then on.

    A replay reads the weights where they lie, so it follows an optimiser that updates them in place. The network has to
    be in the same mode each time, as `pgd` sees to. The first replay is compared with the plain steps: where it
    differs, or where nothing can be captured, a warning says so once and the steps stay plain.

    Args:
        model: the network.
        capture: see `cuda_graph`.
    """

    def __init__(self, model: nn.Module, *, capture: Capture = cuda_graph):
        self.model, self.capture = model, capture
        self.captured: dict[Any, Captured] = {}
        self.seen: set[Any] = set()
        self.failed = False

    def __call__(self, model: nn.Module, *inputs: Tensor, step_size: float, steps: int) -> Tensor:
        """As `attack.ascend`."""
        x, kind = inputs[0], inputs[0].device.type
        number_format = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        key = (x.shape, x.stride(), number_format, step_size, steps)
        if model is self.model and key in self.captured:
            return self.captured[key](*inputs)
        plain = ascend(model, *inputs, step_size=step_size, steps=steps)
        if model is self.model and key in self.seen and not self.failed:
            self._capture(key, inputs, plain, step_size=step_size, steps=steps)
        self.seen.add(key)
        return plain

    def _capture(self, key: Any, inputs: tuple[Tensor, ...], plain: Tensor, *, step_size: float, steps: int) -> None:
        buffers = tuple(value.detach().clone() for value in inputs)

        def call() -> Tensor:
            torch.clear_autocast_cache()  # weights cast before the capture would be read, stale, by every replay
            return ascend(self.model, *buffers, step_size=step_size, steps=steps)

        try:
            graph = Captured(buffers, *self.capture(call))
            apart = (graph(*inputs) != plain).float().mean().item()
            if apart > APART:
                raise RuntimeError(f"its first replay moved {apart:.0%} of the pixels elsewhere")
            self.captured[key] = graph
        except RuntimeError as error:
            self.failed = True
            warnings.warn(f"the attack runs without a CUDA graph: {error}", stacklevel=2)
        torch.clear_autocast_cache()  # those cast during the capture lie in the graph's own memory
