"""A training epoch through the study's own loop beside a textbook loop: every image attacked, or half of each batch."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Adam, Optimizer

from benchmarks.attacks import default_layout, textbook, usual
from benchmarks.contest import Calls, Case, Contest
from seladv.data.images import Images, to_float
from seladv.study import params
from seladv.training import models
from seladv.training.run import Run
from seladv.training.train import train_epoch

ROOT = Path(__file__).parents[1]
ARMS = ("full", "margin-50")


def ours(case: Case, arm: str, *, batches: int, device: torch.device) -> Run:
    """A run of the mnist protocol with the case's network, batch size and attack, on random images of ten classes."""
    settings = params.load(ROOT / "params.yaml", "mnist").training()
    settings |= {"model": case.model, "batch_size": case.batch, **case.attack}
    count, generator = batches * case.batch, torch.Generator().manual_seed(0)
    images = torch.randint(256, (count, *case.shape), dtype=torch.uint8, generator=generator)
    data = Images(images.to(device), torch.arange(count, device=device) % 10)
    return Run(settings, arm=arm, seed=0, data={"train": data, "heldout": data}, device=device)


def textbook_epoch(
    model: nn.Module, optimizer: Optimizer, x: Tensor, y: Tensor, *, batch: int, k: int, attack: dict[str, Any]
) -> float:
    """One epoch in fp32 as public repositories write it: attacks the `k` images of each batch with the least margin.

    Args:
        model: updated by `optimizer` once for each batch.
        x, y: all images [N, C, H, W] in [0, 1] and their classes [N].
        batch: images in a batch; with k = batch nothing is scored.
        attack: see `attacks.textbook`.

    Returns:
        The loss of the last batch.
    """
    value = 0.0
    for index in torch.randperm(len(y), device=y.device).split(batch):
        images, labels = x[index], y[index]
        model.eval()
        if k < batch:
            with torch.no_grad():
                first, second = model(images).topk(2, dim=1).values.unbind(dim=1)
            chosen = (first - second).argsort()[:k]
            images[chosen] = textbook(model, images[chosen], labels[chosen], **attack)
        else:
            images = textbook(model, images, labels, **attack)
        model.train()
        loss = cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        value = loss.item()
    return value


def contest(case: Case, *, batches: int, device: torch.device) -> Contest:
    """Milliseconds of an epoch for each of its `batches`; all contestants begin with the same weights."""
    calls: Calls = {}
    for arm in ARMS:
        run = ours(case, arm, batches=batches, device=device)
        model = usual(models.build(case.model, seed=0, device=device))
        optimizer, k = Adam(model.parameters(), lr=run.settings["lr"]), run.arm.count(case.batch)
        x, y = default_layout(to_float(run.train.images)), run.train.labels
        calls[f"textbook, {arm}"] = partial(
            textbook_epoch, model, optimizer, x, y, batch=case.batch, k=k, attack=case.attack
        )
        calls[f"seladv, {arm}"] = partial(train_epoch, run)
    title = f"epoch: {case.model}, batch {case.batch}"
    return Contest(title, "batch", batches, "seladv, full", calls, lambda results: {})
