"""How well cheap scores stand in for exact gradient matching: on one run's networks, from its start to its end."""

import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
from scipy.stats import spearmanr
from torch import Tensor

from seladv.attack import eval_mode
from seladv.selection import SCORES, SELECTORS
from seladv.study.places import StudyError
from seladv.training.checkpoint import load_network
from seladv.training.device import autocast
from seladv.training.run import Run

EXACT = "gradmatch"
PROXIES = ("gradmatch-last", "gradmatch-logit", "graddot", "el2n", "margin", "random")
ROUNDED = "gradmatch, bf16"  # no proxy, but what training computes where the hardware has bf16
PASS = "attack pass"  # forward, and backward to the input: what selection spares the samples that it leaves out
BATCHES = 20  # of an epoch, at most

Batch = tuple[Tensor, Tensor]


def networks(run: Run, folder: Path) -> Iterator[tuple[str, int, tuple[Tensor, ...]]]:
    """Put the run's networks into `run` one after the other: (start, middle or end, epochs trained, next batches).

    The batches are the indices [B] of the epoch that comes next, in that epoch's order.

    Raises:
        StudyError: `folder` does not hold the run's networks.
    """
    epochs = run.settings["epochs"]
    files = {"start": (0, None), "middle": (-(-epochs // 2), "middle"), "end": (epochs, "last")}
    begun = 0
    for phase, (epoch, name) in files.items():
        while begun <= epoch:
            batches = run.start_epoch()
            begun += 1
        if name:
            saved = load_network(folder / f"{name}.safetensors", run.settings["model"], device=run.device)
            run.model.load_state_dict(saved.state_dict())
        yield phase, epoch, batches


def scores(run: Run, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Every criterion's score [B] of one batch in fp32, and the exact one in bf16 beside them."""
    generator = run.generators["selection"]
    with eval_mode(run.model), torch.no_grad():
        found = {name: SCORES[name](run.model, x, y, generator) for name in (EXACT, *PROXIES)}
        with autocast("bf16", run.device):
            found[ROUNDED] = SCORES[EXACT](run.model, x, y, generator)
    return found


def correlation(score: Tensor, exact: Tensor) -> float:
    """Spearman's rank correlation over a batch; 0 where either is the same for all samples, and has no ranks."""
    if score.unique().numel() < 2 or exact.unique().numel() < 2:
        return 0.0
    return float(spearmanr(score.cpu().double(), exact.cpu().double()).statistic)


def overlap(score: Tensor, exact: Tensor, k: int) -> float:
    """Share of the k samples with the highest exact score that `score` chooses, too."""
    chosen, wanted = (set(values.topk(k).indices.tolist()) for values in (score, exact))
    return len(chosen & wanted) / k


def agreement(run: Run, batches: list[Batch]) -> dict[str, dict[str, float]]:
    """Name → `correlation` and `overlap` with the exact score, means over the batches, and the least overlap of one."""
    found: dict[str, list[tuple[float, float]]] = {}
    for x, y in batches:
        values = scores(run, x, y)
        exact, k = values.pop(EXACT), run.arm.count(len(x))
        for name, score in values.items():
            found.setdefault(name, []).append((correlation(score, exact), overlap(score, exact, k)))
    summed = {}
    for name, pairs in found.items():
        ranks, shares = zip(*pairs, strict=True)
        summed[name] = {"correlation": mean(ranks), "overlap": mean(shares), "least_overlap": min(shares)}
    return summed


def costs(run: Run, batches: list[Batch]) -> dict[str, float]:
    """Time of each criterion's choice, and of an attack's pass, over that of a forward pass, in the run's precision.

    Batch by batch in turns, and the median over the batches: what slows the machine down slows all of them down.
    """

    def attack_pass(x: Tensor) -> None:
        x = x.detach().requires_grad_()
        with eval_mode(run.model):
            torch.autograd.grad(run.model(x).sum(), x)

    def forward(x: Tensor) -> None:
        with eval_mode(run.model), torch.no_grad():
            run.model(x)

    def choice(name: str, x: Tensor, y: Tensor) -> None:
        SELECTORS[name](run.model, x, y, run.arm.count(len(x)), generator=run.generators["selection"])

    def seconds(call: Callable[..., None], *arguments: Any) -> float:
        start = _clock(run.device)
        with run.autocast():
            call(*arguments)
        return _clock(run.device) - start

    lines = []
    for x, y in [batches[0], *batches]:  # the first once more: it warms up
        unit = seconds(forward, x)
        times = {name: seconds(choice, name, x, y) for name in (EXACT, *PROXIES)} | {PASS: seconds(attack_pass, x)}
        lines.append({name: value / unit for name, value in times.items()})
    return {name: median(line[name] for line in lines[1:]) for name in lines[0]}


def measure(run: Run, folder: Path) -> dict[str, Any]:
    """What `results/fidelity/<protocol>.json` says of the run whose networks are in `folder`.

    Raises:
        StudyError: its arm selects nothing, or `folder` does not hold its networks.
    """
    if run.arm.criterion is None or run.arm.count(run.settings["batch_size"]) == 0:
        raise StudyError("fidelity: an arm is needed that selects, such as gradmatch-50")
    phases = []
    for phase, epoch, indices in networks(run, folder):
        batches = [run.batch(index) for index in islice(indices, BATCHES)]
        whole = [batch for batch in batches if len(batch[1]) == len(batches[0][1])]  # an epoch's last may be smaller
        phases.append({"phase": phase, "epoch": epoch, "batches": len(whole), "agreement": agreement(run, whole)})
    size = len(whole[0][1])
    return {
        "percent": run.arm.percent,
        "steps": run.settings["steps"],
        "batch_size": size,
        "chosen": run.arm.count(size),
        "precision": run.precision,
        "phases": phases,
        "cost": costs(run, whole),
    }


def _clock(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
