"""A run: everything that changes while one arm trains with one seed."""

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import LongTensor, Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import ConstantLR, LRScheduler, OneCycleLR

from seladv.attack import ascend
from seladv.data.images import Images, crop_and_flip, stream, to_float
from seladv.frozen import Frozen, Graphed
from seladv.selection import CRITERIA, SCORES, SELECTORS
from seladv.study import arms, places
from seladv.training import cost, models, pretrained
from seladv.training.device import FORMATS, autocast, resolve

PARTS = ("model", "optimizer", "schedule", "scaler")
SAVED = ("history", "kept", "times_selected", "remembered")


class Run:
    """The network with its optimiser, generators, counters and history.

    Args:
        settings: a protocol's training settings (`Protocol.training()`).
        arm: see `study.arms`.
        seed: the only source of randomness.
        data: `train` and `heldout` images on `device`.
        device: where to train.
    """

    def __init__(self, settings: dict[str, Any], *, arm: str, seed: int, data: dict[str, Images], device: torch.device):
        self.settings, self.arm, self.seed, self.device = settings, arms.parse(arm), seed, device
        self.train, self.heldout = data["train"], data["heldout"]
        self.classes = int(self.train.labels.max()) + 1
        self.attack = self.arm.attack(settings)
        self.precision = resolve(settings["precision"], device)
        self.size = self.train.images.shape[-1]
        self.model = models.build(settings["model"], seed=seed, classes=self.classes, size=self.size, device=device)
        if weights := settings.get("weights"):
            print(pretrained.read_into(self.model, places.root() / weights, classes=self.classes))
        self.optimizer, self.schedule = optimizer(self.model, settings, samples=len(self.train.labels))
        # On the CPU, where every device finds the same batches, crops and flips.
        self.generators = {name: stream(seed, name) for name in ("order", "augment")}
        self.generators |= {name: stream(seed, name, device) for name in ("attack", "selection")}
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.precision == "fp16")
        example = self.train.batch(torch.arange(2, device=device))[0]
        self.frozen = Frozen(self.model, example, dtype=FORMATS[self.precision])
        self.clock = cost.Clock(device)
        self.ascend = Graphed(self.frozen.network) if device.type == "cuda" else ascend
        self.history: list[dict[str, Any]] = []
        self.kept: dict[str, dict[str, Tensor]] = {}  # "middle" and "best" → weights
        self.times_selected = torch.zeros(len(self.train.labels), dtype=torch.int32, device=device)
        self.remembered = torch.full((len(self.train.labels),), torch.inf, device=device)  # not yet seen: goes first

    def start_epoch(self) -> tuple[Tensor, ...]:
        """Shuffle, empty what is counted by the epoch, and return the indices [B] of each batch."""
        self.model.train()
        if self.warm and "frozen" in self.arm.switches:
            for module in self.model.modules():
                module.training = not isinstance(module, _BatchNorm)
        self.loss = 0.0
        self.selected_classes = torch.zeros(self.classes, dtype=torch.int64, device=self.device)
        self.passes = cost.none()
        self.clock.take()
        order = torch.randperm(len(self.train.labels), generator=self.generators["order"])
        return order.to(self.device).split(self.settings["batch_size"])

    @property
    def warm(self) -> bool:
        """Whether the first epochs, in which the authors' code selects at random, are over."""
        return len(self.history) >= self.settings["warmup_epochs"]

    def autocast(self) -> AbstractContextManager[None]:
        """The precision that the network computes in."""
        return autocast(self.precision, self.device)

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """The training images at `index` [B], augmented, float32 in [0, 1], and their classes."""
        augment = self.settings["augment"]
        if not any(augment.values()):
            return self.train.batch(index)
        images = crop_and_flip(self.train.pixels(index), **augment, generator=self.generators["augment"])
        return to_float(images), self.train.labels[index]

    def criterion(self, batch: int) -> str | None:
        """The criterion that scores the samples of a batch of this size now; None where nothing is scored."""
        if self.arm.criterion is None or self.arm.count(batch) in (0, batch):
            return None
        if "warmup" in self.arm.switches and not self.warm:
            return "random"
        return None if "stale" in self.arm.switches else self.arm.criterion

    def choose(self, network: torch.nn.Module, index: Tensor, x: Tensor, y: Tensor) -> LongTensor:
        """Indices [k] into the batch of the samples to attack. Nothing is scored where all or none are.

        `network` is the folded copy. A criterion that looks at the weights' gradients takes the network itself.
        """
        k, criterion = self.arm.count(len(x)), self.criterion(len(x))
        if criterion:
            _, _, of_logits = CRITERIA[criterion]
            model = network if of_logits else self.model
            return SELECTORS[criterion](model, x, y, k, generator=self.generators["selection"])
        if k in (0, len(x)):
            return torch.arange(k, device=x.device)  # type: ignore[return-value]
        return self.remembered[index].topk(k).indices  # type: ignore[return-value]

    def remember(self, index: Tensor, logits: Tensor, y: Tensor) -> None:
        """Keep each sample's score for its next visit, where the arm goes by it."""
        if "stale" in self.arm.switches:
            score: Any = SCORES[str(self.arm.criterion)]
            self.remembered[index] = score.function(logits.detach(), y, self.generators["selection"])

    def keep(self, name: str) -> None:
        """Keep the network as it is now under `name`."""
        self.kept[name] = {key: value.detach().clone() for key, value in self.model.state_dict().items()}

    def book(self, index: Tensor, chosen: LongTensor, loss: float) -> None:
        """Count one finished training step."""
        criterion = self.criterion(len(index))
        both = len(chosen) if "whole" in self.arm.switches else 0
        steps = {"attacked": len(chosen), "steps": self.attack["steps"], "updated": len(index) + both}
        self.passes = cost.add(self.passes, cost.step(scored=len(index), criterion=criterion, **steps))
        self.loss += loss * len(index)
        self.times_selected[index[chosen]] += 1
        classes = self.train.labels[index[chosen]]
        self.selected_classes += classes.bincount(minlength=len(self.selected_classes))

    def state(self) -> dict[str, Any]:
        """Everything that changes from epoch to epoch: what a killed run resumes from, bit for bit."""
        parts = {name: getattr(self, name).state_dict() for name in PARTS}
        generators = {name: generator.get_state() for name, generator in self.generators.items()}
        return {**parts, "generators": generators, **{name: getattr(self, name) for name in SAVED}}

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to where `state` was taken."""
        for name in PARTS:
            getattr(self, name).load_state_dict(state[name])
        for name, value in state["generators"].items():
            self.generators[name].set_state(value)
        for name in SAVED:
            value = state[name]
            setattr(self, name, value.to(self.device) if isinstance(value, Tensor) else value)


def optimizer(model: torch.nn.Module, settings: dict[str, Any], *, samples: int) -> tuple[Optimizer, LRScheduler]:
    """Adam or SGD with the protocol's settings, and its schedule: constant, or one cycle (Smith and Topin 2018)."""
    rates = {"lr": settings["lr"], "weight_decay": settings["weight_decay"]}
    moves: Optimizer = (
        SGD(model.parameters(), momentum=settings["momentum"], **rates)
        if settings["optimizer"] == "sgd"
        else Adam(model.parameters(), **rates)
    )
    if settings["schedule"] == "constant":
        return moves, ConstantLR(moves, factor=1, total_iters=0)
    updates = settings["epochs"] * -(-samples // settings["batch_size"])
    return moves, OneCycleLR(moves, max_lr=settings["lr"], total_steps=updates, cycle_momentum=False)
