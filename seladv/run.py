"""A run: everything that changes while one arm trains with one seed, saved as a whole and resumed as a whole."""

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import LongTensor, Tensor, nn

from seladv import arms, cost, models, precision
from seladv.accuracy import correct, percent
from seladv.attack import pgd
from seladv.data import Images
from seladv.seeds import stream


class Run:
    """The network with its optimiser, generators, counters and history.

    Args:
        settings: a protocol's training settings (`params.Protocol.training()`).
        arm: `clean`, `full` or `<criterion>-<percent>`.
        seed: the only source of randomness.
        data: `train` and `heldout` images on `device`.
        device: where to train.
    """

    def __init__(self, settings: dict[str, Any], *, arm: str, seed: int, data: dict[str, Images], device: torch.device):
        self.settings, self.arm, self.seed, self.device = settings, arms.parse(arm), seed, device
        self.train, self.heldout = data["train"], data["heldout"]
        self.attack = {name: settings[name] for name in ("eps", "step_size", "steps")}
        self.precision = precision.resolve(settings["precision"], device)
        self.model = models.build(settings["model"], seed=seed, device=device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=settings["lr"])
        self.generators = {"order": stream(seed, "order")}  # on the CPU: the same batches on every device
        self.generators |= {name: stream(seed, name, device) for name in ("attack", "selection")}
        self.meter = cost.Meter(self.model, device)
        self.history: list[dict[str, Any]] = []
        self.times_selected = torch.zeros(len(self.train.labels), dtype=torch.int32, device=device)
        self.start_epoch()

    def start_epoch(self) -> None:
        """Shuffle, and empty what is counted by the epoch."""
        self.model.train()
        self.step = 0
        self.order = torch.randperm(len(self.train.labels), generator=self.generators["order"])
        self.loss = torch.zeros((), dtype=torch.float64, device=self.device)
        self.selected_classes = torch.zeros(int(self.train.labels.max()) + 1, dtype=torch.int64, device=self.device)
        self.spent = {**self.meter.take(), "epoch_seconds": 0.0}

    def autocast(self) -> AbstractContextManager[None]:
        """The precision that the network computes in."""
        return precision.autocast(self.precision, self.device)

    def batches(self) -> tuple[Tensor, ...]:
        """Indices [B] of each batch of the epoch that is still to come."""
        return self.order.to(self.device).split(self.settings["batch_size"])[self.step :]

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

    def finish_epoch(self) -> dict[str, Any]:
        """Measure the held-out images, append the epoch's line to the history, and return it."""
        generator = stream(self.seed, "monitor", self.device)

        def attack(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
            return pgd(model, x, y, **self.attack, generator=generator)

        with self.meter("monitor"), self.autocast():
            clean = percent(correct(self.model, self.heldout))
            robust = percent(correct(self.model, self.heldout, attack=attack))
        self.spend(0.0)
        selected = self.selected_classes.sum().item()
        line = {
            "epoch": len(self.history) + 1,
            "loss": self.loss.item() / len(self.train.labels),
            "heldout_clean": clean,
            "heldout_robust": robust,
            "selected_classes": [count / selected if selected else 0.0 for count in self.selected_classes.tolist()],
            "never_selected": (self.times_selected == 0).double().mean().item(),
            **self.spent,
        }
        self.history.append(line)
        return line

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All of the above as named tensors and JSON."""
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        for index, slots in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{slot}": value for slot, value in slots.items()}
        tensors |= {f"generator.{name}": value.get_state() for name, value in self.generators.items()}
        tensors |= {name: getattr(self, name) for name in ("order", "loss", "selected_classes", "times_selected")}
        return tensors, {"step": self.step, "history": self.history, "spent": self.spent}

    def resume(self, tensors: dict[str, Tensor], info: dict[str, Any]) -> None:
        """Stand again where `state` was taken."""
        groups: dict[str, dict[str, Tensor]] = {"model": {}, "optimizer": {}, "generator": {}}
        for name, value in tensors.items():
            group, _, rest = name.partition(".")
            if rest:
                groups[group][rest] = value
            else:
                setattr(self, name, value if name == "order" else value.to(self.device))
        self.model.load_state_dict(groups["model"])
        slots: dict[int, dict[str, Tensor]] = {}
        for name, value in groups["optimizer"].items():
            index, slot = name.split(".")
            slots.setdefault(int(index), {})[slot] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": slots})
        for name, value in groups["generator"].items():
            self.generators[name].set_state(value)
        self.step, self.history, self.spent = info["step"], info["history"], info["spent"]
