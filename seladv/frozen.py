"""The network as attack and scoring run it: eval mode, batch norm folded, weights cast once, one CUDA graph."""

import copy
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn.utils import fuse_conv_bn_weights, fuse_linear_bn_weights

from seladv import guard
from seladv.attack import ascend, eval_mode

Capture = Callable[[Callable[[], Tensor]], tuple[Callable[[], None], Tensor]]

CONVOLUTIONS, NORMS = (nn.Conv1d, nn.Conv2d, nn.Conv3d), (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
APART = 0.1  # share of the pixels that the first replay may move elsewhere: rounding moves few, a wrong graph most


class Frozen:
    """A copy of a network for scoring and attack, between two updates of its weights.

    The copy is in eval mode and no weight of it asks for a gradient. Batch norm is folded into the convolution or
    linear layer before it, and the weights of these layers are cast once instead of at every call. The network is
    traced once, by torch.fx: what its Python code decides or computes outside of tensors stays as it was then. A
    network that cannot be traced, has hooks, or whose copy computes something else is used as it is; `network` is then
    the model itself.

    Args:
        model: maps images [B, ...] to logits; left as it is. Its weights may change; its layers and formats may not.
        example: some images [B, ...], on which copy and network have to agree to rounding, gradients included.
        dtype: of the autocast that the copy runs under, and under no other; None without autocast.
    """

    def __init__(self, model: nn.Module, example: Tensor, *, dtype: torch.dtype | None = None):
        self.model, self.network, self.updates = model, model, list[Callable[[], None]]()
        with eval_mode(model), torch.autocast(example.device.type, enabled=False):
            result = _logits_and_gradient(model, example)  # first: an example that does not fit raises its own error
            traced = _traced(model, example)
            if traced and _agree(result, _logits_and_gradient(_copy(model, traced, None)[0], example)):
                self.network, self.updates = _copy(model, traced, dtype)
        self.built = _build(model)

    def refold(self) -> nn.Module:
        """The copy, with the network's present weights; the network itself where it could not be copied.

        Raises:
            ValueError: a layer has been replaced, a hook been added, or the weights' format or device changed.
        """
        if self.updates and self.built != _build(self.model):
            raise ValueError("frozen: the network's layers, hooks, number format or device changed; make a new Frozen")
        with torch.no_grad():
            for update in self.updates:
                update()
        return self.network


def _build(model: nn.Module) -> tuple[Any, ...]:
    """What may not change under a copy: layers, hooks, formats and devices."""
    hooks = sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())
    return [*model.modules()], hooks, [(weight.dtype, weight.device) for weight in model.parameters()]


def _traced(model: nn.Module, example: Tensor) -> fx.GraphModule | None:
    """`model` as a graph whose nodes know the shapes of what they make; None where that cannot be had."""
    if any(module._forward_hooks or module._forward_pre_hooks for module in model.modules()):
        return None
    try:
        traced = fx.symbolic_trace(model)
        with torch.no_grad():
            ShapeProp(traced).propagate(example)
    except Exception:  # the network's own code is run on placeholders, where anything may be raised
        return None
    return traced


@torch.no_grad()
def _copy(
    model: nn.Module, traced: fx.GraphModule, dtype: torch.dtype | None
) -> tuple[nn.Module, list[Callable[[], None]]]:
    """A copy of the traced network with memory of its own, and what brings its weights up to date."""
    folded, modules = _foldable(traced), dict(traced.named_modules())
    twin, updates, own = copy.deepcopy(traced).requires_grad_(False), [], set[str]()
    for name, module in modules.items():
        if type(module) in (*CONVOLUTIONS, nn.Linear) and (dtype or name in folded):
            norm = modules[folded[name]] if name in folded else None
            updates.append(_own_weights(module, twin.get_submodule(name), norm, dtype or module.weight.dtype))
            own |= {f"{name}.weight", f"{name}.bias"}
    for name in folded.values():
        twin.set_submodule(name, nn.Identity())
    for name, value in [*twin.named_parameters(), *twin.named_buffers()]:
        if name not in own and _tensor(model, name) is not None:
            updates.append(partial(_follow, model, name, value))
    for update in updates:
        update()
    return twin, updates


def _tensor(model: nn.Module, name: str) -> Tensor | None:
    """The network's weight or buffer of that name, as it is now; None for a constant that tracing has made."""
    path, _, last = name.rpartition(".")
    return getattr(model.get_submodule(path), last, None)


def _follow(model: nn.Module, name: str, value: Tensor) -> None:
    value.copy_(_tensor(model, name))  # type: ignore[arg-type]


def _foldable(traced: fx.GraphModule) -> dict[str, str]:
    """Layer → the batch norm after it, by name, where the layer's output goes nowhere else and each runs once."""
    modules, runs = dict(traced.named_modules()), [node for node in traced.graph.nodes if node.op == "call_module"]
    targets = [node.target for node in runs]
    found = {}
    for norm in runs:
        layer: Any = norm.args[0] if norm.args else None
        if type(modules[norm.target]) not in NORMS or layer not in runs or len(layer.users) > 1:
            continue
        kind, channels_last = type(modules[layer.target]), layer.meta["tensor_meta"].shape[2:]
        once = targets.count(norm.target) == targets.count(layer.target) == 1
        fits = kind in CONVOLUTIONS or (kind is nn.Linear and not channels_last)
        if once and fits and modules[norm.target].running_mean is not None:
            found[layer.target] = norm.target
    return found


def _own_weights(layer: Any, twin: Any, norm: Any, dtype: torch.dtype) -> Callable[[], None]:
    """Gives `twin` weights of its own, in `dtype`; returns what copies them from `layer`, with `norm` folded in."""
    bias = layer.bias if norm is None else norm.running_mean
    twin.weight = nn.Parameter(torch.empty_like(layer.weight, dtype=dtype), requires_grad=False)
    twin.bias = None if bias is None else nn.Parameter(torch.empty_like(bias, dtype=dtype), requires_grad=False)
    fuse: Any = fuse_linear_bn_weights if isinstance(layer, nn.Linear) else fuse_conv_bn_weights

    def update() -> None:
        weight, bias = layer.weight, layer.bias
        if norm is not None:
            mean = norm.running_mean
            scale = torch.ones_like(mean) if norm.weight is None else norm.weight
            shift = torch.zeros_like(mean) if norm.bias is None else norm.bias
            weight, bias = fuse(weight, bias, mean, norm.running_var, norm.eps, scale, shift)
        twin.weight.copy_(weight)
        if bias is not None:
            twin.bias.copy_(bias)

    return update


Result = tuple[Tensor, Tensor | None]


def _logits_and_gradient(model: nn.Module, example: Tensor) -> Result:
    """Logits [B, classes], and a gradient at the images, of a sum in which every logit has another weight."""
    x = example.detach().requires_grad_()
    with torch.enable_grad():
        logits = guard.logits("frozen", model(x), x)
        weights = torch.arange(1, logits.shape[1] + 1, device=x.device, dtype=logits.dtype)
        total = (logits * weights).sum()
    gradient = torch.autograd.grad(total, x, allow_unused=True)[0] if total.requires_grad else None
    return logits.detach(), gradient


def _agree(one: Result, other: Result) -> bool:
    """The logits to rounding; the gradients but for units at zero, which rounding switches."""
    (logits, gradient), (others, another) = one, other
    most = logits.abs().nan_to_num().amax().item()
    if logits.shape != others.shape or not torch.allclose(logits, others, rtol=0, atol=1e-3 * most, equal_nan=True):
        return False
    if gradient is None or another is None:
        return gradient is another
    return bool((gradient - another).norm() <= 0.1 * gradient.norm())


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
