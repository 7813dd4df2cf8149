"""Before any work: whether a protocol's network takes its images, from one pass through a network thrown away."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from seladv.study import arms
from seladv.study.places import StudyError
from seladv.study.protocol import Protocol
from seladv.training import models, pretrained


def check(protocol: Protocol, labels: Tensor, *, shape: Sequence[int], root: Path) -> str:
    """Build the network, read its weights, and run a batch like the smallest of training through it in train mode.

    Args:
        protocol: its arms decide which batches there will be.
        labels: classes [N] of the training images, the held-out ones left out.
        shape: the images' own, [N, C, H, W].
        root: what a relative path of `weights` counts from.

    Returns:
        A line about the network, and one about its weights.

    Raises:
        StudyError: the network is unknown, does not fit the images or the weights, or cannot train on such a batch.
    """
    classes, size = int(labels.max()) + 1, shape[-1]
    model = models.build(protocol.model, seed=0, classes=classes, size=size)
    lines = []
    if protocol.weights:
        lines.append(pretrained.read_into(model, root / protocol.weights, classes=classes))
    count = smallest(protocol, len(labels))
    what = f"model = {protocol.model!r} cannot train on a batch of {count}, {size} × {size} pixels"
    try:
        with torch.random.fork_rng(devices=[]):
            logits = model.train()(torch.rand(count, *shape[1:]))
    except Exception as error:  # whatever another's network raises
        hint = "; an epoch's last batch is that small: change batch_size or holdout" if count == 1 else ""
        raise StudyError(f"{what}: {' '.join(str(error).split())[:300]}{hint}") from None
    if not isinstance(logits, Tensor) or logits.shape != (count, classes):
        returned = [*logits.shape] if isinstance(logits, Tensor) else type(logits).__name__
        raise StudyError(f"{what}: it returns {returned} instead of logits [{count}, {classes}]")
    weights = sum(weight.numel() for weight in model.parameters())
    return "\n".join([f"{protocol.model}: {weights:,} weights, {classes} classes, {size} × {size} pixels", *lines])


def smallest(protocol: Protocol, images: int) -> int:
    """How many of `images` training images the smallest forward pass in train mode holds.

    That is the last batch of an epoch, or with the authors' objective its attacked part.
    """
    batches = {min(protocol.batch_size, images), images % protocol.batch_size} - {0}
    parts = {arm.count(batch) for arm in map(arms.parse, protocol.arms) if "whole" in arm.switches for batch in batches}
    return min((batches | parts) - {0})
