"""Follow one pass through a network's layers, and make sure that nothing escapes."""

import inspect
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge
from torch.nn.modules.batchnorm import _BatchNorm

from seladv.selection.gradmatch_layers import is_attention, parameters, rule
from seladv.selection.gradmatch_products import SelfAttention, refusal

Reached = Callable[[nn.Module, Tensor, Tensor], None]


class Site(NamedTuple):
    """Where a module's call stands in autograd's graph: the owners it ran inside of, its input's and output's nodes."""

    module: nn.Module
    around: set[nn.Module]
    before: Node | None
    after: GradientEdge


class Trace:
    """Reports (module, input, output's gradient) when the backward pass reaches a module that owns a parameter.

    Args:
        model: in eval mode.
        batch: the number of samples.
        reached: called in the backward pass, in any order. Autograd's graph holds it, so it must not hold the trace.

    Raises:
        ValueError: here or in the forward pass: see `gradmatch.cosine`.
    """

    def __init__(self, model: nn.Module, batch: int, reached: Reached):
        self._owners = owners(model)
        self._batch, self._reached = batch, reached
        self._running: list[tuple[nn.Module, int | None]] = []
        self._sites: dict[nn.Module, Site] = {}

    @contextmanager
    def forward(self) -> Iterator[None]:
        """The forward pass, and nothing else, is to run inside the block."""
        handles = []
        try:
            for module in self._owners:
                handles.append(module.register_forward_pre_hook(self._enter, with_kwargs=True))
                # First in line: it sees the output before another hook replaces it.
                handles.append(module.register_forward_hook(self._leave, with_kwargs=True, prepend=True))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._running.append((module, version(as_map(module, args, kwargs)[1])))

    def _leave(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Any:
        _, before = self._running.pop()
        name = self._owners[module]
        run, args, kwargs = as_map(module, args, kwargs)
        output, *others = result if isinstance(run, SelfAttention) else [result]
        dim = 1 if isinstance(run, SelfAttention) and not run.attention.batch_first else 0  # of the samples
        if isinstance(output, Tensor) and not output.requires_grad:
            return None  # no gradient gets here
        if module in self._sites:
            raise refusal(f"{name} runs more than once in a forward pass")
        tensors = [value for value in (*args, output) if isinstance(value, Tensor) and value.dim() > 0]
        if len(args) != 1 or kwargs or len(tensors) != 2 or any(value.shape[dim] != self._batch for value in tensors):
            raise refusal(f"{name} does not map one tensor [{self._batch}, ...] to another")
        if isinstance(module, _BatchNorm) and module.training:
            raise refusal(f"{name} is in train mode: its samples see each other")
        if version(args) != before:
            raise refusal(f"{name} changes its input in place")
        if output._is_view():
            output = output.clone()  # a view that is changed in place gets a new place in the graph
        held, reached = [args[0].detach()], self._reached

        def backward(gradient: Tensor) -> None:
            a = held.pop()  # the last use of it: its memory is free for the layers before
            if version((a,)) != before:
                raise refusal(f"the input of {name} is changed in place after use")
            reached(run, a.transpose(0, dim), gradient.transpose(0, dim))

        output.register_hook(backward)
        around = {outer for outer, _ in self._running}
        self._sites[module] = Site(module, around, args[0].grad_fn, get_gradient_edge(output))
        return (output, *others) if others else output

    def first(self, logits: Tensor) -> list[GradientEdge]:
        """The outputs that no other one comes before: a backward pass to these reaches all, and goes no further.

        Raises:
            ValueError: a parameter is used outside the module that owns it.
        """
        outputs = {site.after.node for site in self._sites.values()}
        self._check(logits.grad_fn, outputs)
        sites = [site for site in self._sites.values() if not outputs & region(site.after.node, outputs)]
        if not sites or logits.grad_fn is None:
            raise refusal("the logits depend on no parameter that requires a gradient")
        return [site.after for site in sites]

    def _check(self, end: Node | None, outputs: set[Node]) -> None:
        """Cut the graph at the modules' inputs and outputs: a piece may use the parameters of those it is inside of."""
        inside: dict[Node, set[nn.Module]] = {} if end is None else {end: set()}
        for site in self._sites.values():
            if site.before is not None and site.before not in outputs:
                inside.setdefault(site.before, set()).update(site.around)
        for site in self._sites.values():
            inside.setdefault(site.after.node, set()).update({site.module} | site.around)
        owned = {weight: module for module in self._owners for _, weight in parameters(module)}
        for start, modules in inside.items():
            for node in region(start, inside):
                owner = owned.get(getattr(node, "variable", None))  # type: ignore[arg-type]
                if owner is not None and owner not in modules:
                    raise refusal(f"a parameter of {self._owners[owner]} is used outside of it")


def region(start: Node, stops: Container[Node]) -> set[Node]:
    """The nodes of autograd's graph that `start` comes from, up to and including the first of `stops`."""
    seen: set[Node] = set()
    todo = [start]
    while todo:
        for node, _ in todo.pop().next_functions:
            if node is not None and node not in seen:
                seen.add(node)
                if node not in stops:
                    todo.append(node)
    return seen


def as_map(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[nn.Module, tuple[Any, ...], dict[str, Any]]:
    """A call of `module`, where it is a sequence's attention to itself as the call of a map of that sequence alone."""
    if is_attention(module):
        given = inspect.signature(type(module).forward).bind(module, *args, **kwargs).arguments
        (_, query), (_, key), (_, value), *rest = ((n, v) for n, v in given.items() if n != "self")
        masked = [v for _, v in rest if isinstance(v, Tensor) and v.dim() != 2]
        if query is key is value and query.dim() == 3 and not masked and given.get("key_padding_mask") is None:
            return SelfAttention(module, dict(rest)), (query,), {}
    return module, args, kwargs


def version(args: tuple[Any, ...]) -> int | None:
    """How often the input was changed in place."""
    return args[0]._version if args and isinstance(args[0], Tensor) else None


def owners(model: nn.Module) -> dict[nn.Module, str]:
    """The modules that own a parameter that requires a gradient, and how errors call them.

    Raises:
        ValueError: a shared parameter, or a module that no per-sample gradient can be had of.
    """
    names: dict[nn.Module, str] = {}
    seen: dict[Tensor, str] = {}
    inside = {part for module in model.modules() if is_attention(module) for part in [*module.modules()][1:]}
    for path, module in model.named_modules():
        if module in inside:
            continue
        label = f"{path or 'the network'} ({type(module).__name__})"
        if isinstance(module, _BatchNorm) and module.running_mean is None:
            raise refusal(f"{label} has no running statistics: its samples see each other")
        for name, weight in parameters(module):
            if not weight.requires_grad:
                continue
            if weight in seen:
                raise refusal(f"{label} shares its {name} with {seen[weight]}")
            seen[weight] = names[module] = label
        if module in names and module._forward_pre_hooks and rule(module) is None:
            raise refusal(f"{label} cannot be run by itself: it has forward pre-hooks")
    return names
