"""What attack and scoring are given, checked before any work: one line says what is wrong, where, and what to do.

Where the meaning is plain, it is accepted: other integer labels, labels [B, 1], a network that returns its logits in a
tuple, a dictionary or an object.
"""

import operator
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
ROUNDING = 1e-6  # how far beyond [0, 1] a pixel may lie: un-normalising in float32 leaves less


def kind(value: Any) -> str:
    """How errors call a value: a tensor with its dtype and shape, anything else with its type."""
    if isinstance(value, Tensor) and (value.is_nested or value.layout != torch.strided):
        return f"nested, or {value.layout}"
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    return f"of type {type(value).__name__}"


def number(where: str, name: str, value: Any) -> float:
    """`value` as a float: a number of Python's or numpy's, or a tensor of one element.

    Raises:
        ValueError: text, several numbers, or a number that is not finite.
    """
    if isinstance(value, str):
        raise ValueError(f"{where}: {name}={value!r} is text; write a number, such as {name}=8 / 255")
    try:
        if isinstance(value, bool):
            raise TypeError
        found = float(value)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{where}: {name} is {kind(value)}; one number for the whole batch is needed") from None
    if not isfinite(found):
        raise ValueError(f"{where}: {name}={value}; a finite number is needed")
    return found


def integer(where: str, name: str, value: Any) -> int:
    """`value` as an int: an integer of Python's or numpy's, or an integer tensor of one element.

    Raises:
        ValueError: anything else.
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise ValueError(f"{where}: {name}={value!r}: an integer is needed, such as 10 or len(x) // 2") from None


def batch(where: str, model: nn.Module, x: Tensor, y: Tensor, generator: Any) -> tuple[Tensor, Tensor]:
    """Check what every attack and criterion takes; `where` begins the line of an error.

    Returns:
        Images [B, ...], as they are, and classes [B], int64. Both are detached, and no inference tensors.

    Raises:
        ValueError: a network that is no `nn.Module`, images that are no floating-point tensor [B, ...], labels that are
            not an integer class for each image on the same device, or a generator that is none or is elsewhere.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"{where}: the network is {kind(model)}; an nn.Module is needed, to set its eval mode: wrap it"
        )
    if any(value.is_inference() for value in (*model.parameters(), *model.buffers())):
        raise ValueError(
            f"{where}: the network's weights were made under torch.inference_mode; build it outside of that"
        )
    x, y = _images(where, x), _labels(where, x, y)
    if not isinstance(generator, torch.Generator | None):
        raise ValueError(f"{where}: the generator is {kind(generator)}; give torch.Generator(x.device).manual_seed(…)")
    if generator is not None and generator.device.type != x.device.type:
        raise ValueError(f"{where}: the generator is on {generator.device}, the images are on {x.device}")
    x, y = (value.clone() if value.is_inference() else value for value in (x, y))  # autograd cannot keep these
    return x.detach(), y


def _images(where: str, x: Any) -> Tensor:
    needed = "floating-point images [B, ...] in [0, 1] are needed"
    if not isinstance(x, Tensor) or x.is_nested or x.layout != torch.strided:
        raise ValueError(f"{where}: the images are {kind(x)}; {needed}: one dense tensor, as torch.stack makes it")
    if x.dtype not in FLOATS:
        fix = "x.float()" if x.dtype == torch.bool else "x.float() / 255 for values up to 255"
        raise ValueError(f"{where}: the images are {kind(x)}; {needed}: {fix}")
    if x.dim() < 2:
        raise ValueError(f"{where}: the images are {kind(x)}; {needed}: x[None] makes a batch of one image")
    return x.as_subclass(Tensor)


def _labels(where: str, x: Tensor, y: Any) -> Tensor:
    needed = "a class for each image, integers [B], is needed"
    if not isinstance(y, Tensor):
        raise ValueError(f"{where}: the labels are {kind(y)}; {needed}: torch.as_tensor(y, device=x.device)")
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        fix = "y.argmax(dim=1) of soft labels" if y.dim() == 2 and y.shape[1] > 1 else "y.long()"
        raise ValueError(f"{where}: the labels are {kind(y)}; {needed}: {fix}")
    y = y[:, 0] if y.dim() == 2 and y.shape[1] == 1 else y
    if y.dim() != 1:
        fix = "x[None] and y[None] make a batch of one image" if y.dim() == 0 else "y.argmax(dim=1) of one-hot labels"
        raise ValueError(f"{where}: the labels are {kind(y)}; {needed}: {fix}")
    if len(y) != len(x):
        verb, fix = "attack" if where == "pgd" else "select from", "give a class for each sample"
        fix += ", and x[None] for one image" if len(y) == 1 else ""
        raise ValueError(f"cannot {verb} {len(x)} samples with {len(y)} classes: {fix}")
    if y.device != x.device:
        raise ValueError(f"{where}: the labels are on {y.device}, the images on {x.device}; give y.to(x.device)")
    return y.to(torch.int64)


def in_range(where: str, x: Tensor) -> Tensor:
    """`x` in [0, 1]: clamped where rounding alone has left it.

    Raises:
        ValueError: a pixel is further outside, or is no number.
    """
    darkest, brightest = (value.item() for value in x.aminmax())
    if not (darkest >= -ROUNDING and brightest <= 1 + ROUNDING):
        found = f"[{darkest:.9g}, {brightest:.9g}]"
        raise ValueError(
            f"{where}: images must lie in [0, 1], found {found}; normalise inside the model, not before it"
        )
    return x if darkest >= 0 and brightest <= 1 else x.clamp(0, 1)


def logits(where: str, output: Any, x: Tensor, y: Tensor | None = None) -> Tensor:
    """The logits [B, classes] in what the network returned for the images `x`.

    Args:
        where: begins the line of an error.
        output: the logits; a tuple or list that they are the first of, and that nothing else in it can be taken for;
            a mapping with "logits", or an object with `.logits`.
        x: the images, one for each row.
        y: int64 classes [B], checked against the number of logits; not checked if not given, and not while a CUDA graph
            is captured, which must not wait for the device.

    Raises:
        ValueError: there are no logits of two classes or more in it, or a label is no class.
    """
    found, shown = output, kind(output)
    if isinstance(output, tuple | list) and output:
        several = sum(_fits(part, x) for part in output) > 1
        found, shown = (None, f"{shown}, and more than one entry may be the logits") if several else (output[0], shown)
    elif isinstance(output, Mapping):
        found = output.get("logits")
    elif not isinstance(output, Tensor):
        found = getattr(output, "logits", None)
    if not _fits(found, x):
        shown += (
            f" with {kind(found)} in the place of logits" if isinstance(found, Tensor) and found is not output else ""
        )
        fix = "a binary network needs two" if _shape(found) in ([len(x)], [len(x), 1]) else "wrap it to return them"
        raise ValueError(f"{where}: the network's output is {shown}; logits [{len(x)}, classes] are needed: {fix}")
    assert isinstance(found, Tensor)
    if y is not None and len(y) and not capturing(y):
        lowest, highest = (int(value) for value in y.aminmax())
        if lowest < 0 or highest >= found.shape[1]:
            label, classes = lowest if lowest < 0 else highest, found.shape[1]
            raise ValueError(f"{where}: label {label} is no class: the network has {classes}, from 0 to {classes - 1}")
    return found


def _shape(value: Any) -> list[int]:
    return list(value.shape) if isinstance(value, Tensor) else []


def _fits(value: Any, x: Tensor) -> bool:
    """Whether it can be the logits of `x`."""
    shape = _shape(value)
    return len(shape) == 2 and shape[0] == len(x) and shape[1] > 1 and value.dtype in FLOATS


def capturing(x: Tensor) -> bool:
    """Whether a CUDA graph is being captured, when nothing may wait for the device that `x` is on."""
    return x.is_cuda and torch.cuda.is_current_stream_capturing()


def local(model: nn.Module) -> nn.Module:
    """This process's network in a DDP wrapper, which would talk to the other processes at every pass."""
    return model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model


def bare(model: nn.Module) -> nn.Module:
    """The network inside `torch.compile`'s, `DataParallel`'s and DDP's wrappers, whose layers hooks can follow."""
    while True:
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        else:
            return model


def eager() -> AbstractContextManager[Any]:
    """A block in which nothing runs compiled: code compiled before calls none of the hooks that are added later."""
    compiled = "torch._dynamo" in sys.modules  # without it nothing is compiled, and its import takes seconds
    return torch.compiler.set_stance("force_eager") if compiled else nullcontext()
