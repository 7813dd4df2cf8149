"""A run: everything that changes while one arm trains with one seed."""

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import LongTensor, Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from seladv import arms, cost, models, objective, optimizers, precision
from seladv.attack import ascend
from seladv.augment import crop_and_flip
from seladv.data import Images, to_float
from seladv.graph import Graphed
from seladv.seeds import stream
from seladv.selection import CRITERIA, SELECTORS


class Run:
    """The network with its optimiser, generators, counters and history; `state.py` saves and restores it whole.

    Args:
        settings: a protocol's training settings (`params.Protocol.training()`).
        arm: see `arms`.
        seed: the only source of randomness.
        data: `train` and `heldout` images on `device`.
        device: where to train.
    """

    def __init__(self, settings: dict[str, Any], *, arm: str, seed: int, data: dict[str, Images], device: torch.device):
        self.settings, self.arm, self.seed, self.device = settings, arms.parse(arm), seed, device
        self.train, self.heldout = data["train"], data["heldout"]
        self.classes = int(self.train.labels.max()) + 1
        self.attack = self.arm.attack(settings)
        self.objective = objective.whole_batch if "whole" in self.arm.switches else objective.mixed
        self.precision = precision.resolve(settings["precision"], device)
        self.model = models.build(settings["model"], seed=seed, classes=self.classes, device=device)
        self.average = optimizers.average(self.model, settings["ema"])
        self.optimizer = optimizers.OPTIMIZERS[settings["optimizer"]](self.model, settings)
        batches = -(-len(self.train.labels) // settings["batch_size"])
        schedule = optimizers.SCHEDULES[settings["schedule"]]
        self.schedule = schedule(self.optimizer, settings, settings["epochs"] * batches)
        # On the CPU, where every device finds the same batches, crops and flips.
        self.generators = {name: stream(seed, name) for name in ("order", "augment")}
        self.generators |= {name: stream(seed, name, device) for name in ("attack", "selection")}
        self.meter = cost.Meter(self.model, device)
        self.ascend = Graphed(self.model, self.meter) if device.type == "cuda" else ascend
        self.history: list[dict[str, Any]] = []
        self.kept: dict[str, dict[str, Tensor]] = {}  # "middle" and "best" → weights
        self.times_selected = torch.zeros(len(self.train.labels), dtype=torch.int32, device=device)
        self.remembered = torch.full((len(self.train.labels),), torch.inf, device=device)  # not yet seen: goes first
        self.start_epoch()

    def start_epoch(self) -> None:
        """Shuffle, and empty what is counted by the epoch."""
        self.model.train()
        if self.warm and "frozen" in self.arm.switches:
            for module in self.model.modules():
                module.training = not isinstance(module, _BatchNorm)
        self.step = 0
        self.order = torch.randperm(len(self.train.labels), generator=self.generators["order"])
        self.loss = torch.zeros((), dtype=torch.float64, device=self.device)
        self.selected_classes = torch.zeros(self.classes, dtype=torch.int64, device=self.device)
        self.spent = {**self.meter.take(), "epoch_seconds": 0.0}

    @property
    def warm(self) -> bool:
        """Whether the first epochs, in which the authors' code selects by chance, are over."""
        return len(self.history) >= self.settings["warmup_epochs"]

    def autocast(self) -> AbstractContextManager[None]:
        """The precision that the network computes in."""
        return precision.autocast(self.precision, self.device)

    def batches(self) -> tuple[Tensor, ...]:
        """Indices [B] of each batch of the epoch that is still to come."""
        return self.order.to(self.device).split(self.settings["batch_size"])[self.step :]

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """The training images at `index` [B], augmented, float32 in [0, 1], and their classes."""
        augment = self.settings["augment"]
        if not any(augment.values()):
            return self.train.batch(index)
        images = crop_and_flip(self.train.images[index], **augment, generator=self.generators["augment"])
        return to_float(images), self.train.labels[index]

    def choose(self, index: Tensor, x: Tensor, y: Tensor) -> LongTensor:
        """Indices [k] into the batch of the samples to attack. Nothing is scored where all or none are."""
        k, criterion = self.arm.count(len(x)), self.arm.criterion
        if criterion is None or k in (0, len(x)):
            return torch.arange(k, device=x.device)  # type: ignore[return-value]
        if "warmup" in self.arm.switches and not self.warm:
            criterion = "random"
        elif "stale" in self.arm.switches:
            return self.remembered[index].topk(k).indices  # type: ignore[return-value]
        return SELECTORS[criterion](self.model, x, y, k, generator=self.generators["selection"])

    def update(self) -> None:
        """Move the weights along the gradient that they hold."""
        self.optimizer.step()
        self.schedule.step()
        if self.average:
            self.average.update_parameters(self.model)

    def remember(self, index: Tensor, logits: Tensor, y: Tensor) -> None:
        """Keep each sample's score for its next visit, where the arm goes by it."""
        if "stale" in self.arm.switches:
            self.remembered[index] = CRITERIA[str(self.arm.criterion)].of_logits(logits.detach(), y)

    def keep(self, name: str) -> None:
        """Keep the network as it is now under `name`."""
        self.kept[name] = {key: value.detach().clone() for key, value in self.model.state_dict().items()}

    def book(self, index: Tensor, chosen: LongTensor, loss: Tensor) -> None:
        """Count one finished training step."""
        self.step += 1
        self.loss += loss * len(index)
        self.times_selected[index[chosen]] += 1
        classes = self.train.labels[index[chosen]]
        self.selected_classes += classes.bincount(minlength=len(self.selected_classes))

    def spend(self, seconds: float) -> None:
        """Add `seconds` of wall clock, and the passes counted meanwhile, to the epoch."""
        self.spent = cost.add(self.spent, {**self.meter.take(), "epoch_seconds": seconds})
