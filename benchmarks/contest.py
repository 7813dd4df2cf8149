"""The contestants on one network and one batch of random images, and their times."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks import peers, textbook, timing
from benchmarks.settings import SCORING_SECONDS, Case
from seladv import attack, precision
from seladv.cost import Meter
from seladv.graph import Graphed
from seladv.modes import eval_mode
from seladv.selection import SELECTORS

Calls = dict[str, Callable[[], Tensor]]

LIMITS = ("limit: as trained", "limit: frozen bf16 copy")  # the faster one is the limit


class Contest:
    """`attackers` and `scorers` by name; all attack the same function, from the same images.

    Args:
        case: network and attack.
        batch: number of images B.
        device: where to run.
        found: the peers' modules, see `peers.load`.
    """

    def __init__(self, case: Case, *, batch: int, device: torch.device, found: dict[str, Any]):
        torch.manual_seed(0)
        self.case, self.batch, self.device = case, batch, device
        self.where = f"{case.name}, batch {batch}"
        self.precision = precision.resolve("auto", device)
        self.model = case.network().to(device=device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        self.plain = case.textbook().to(device).eval()
        self.plain.load_state_dict(self.model.state_dict())
        self.x, self.y = torch.rand(batch, *case.shape, device=device), torch.randint(10, (batch,), device=device)
        self.x_last = self.x.contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            torch.testing.assert_close(self.model(self.x_last), self.plain(self.x), rtol=1e-3, atol=1e-3)
        self.attackers, self.scorers = self._attackers(found), self._scorers()

    def _attackers(self, found: dict[str, Any]) -> Calls:
        settings: dict[str, Any] = {"eps": self.case.eps, "step_size": self.case.step_size, "steps": self.case.steps}

        gpu = self.device.type == "cuda"  # as in training, see `seladv.run`
        steps = Graphed(self.model, Meter(self.model, self.device)) if gpu else attack.ascend

        def seladv(number_format: str) -> Tensor:
            with precision.autocast(number_format, self.device):
                return attack.pgd(self.model, self.x_last, self.y, **settings, ascend=steps)

        frozen, dtype = copy.deepcopy(self.model).requires_grad_(False), torch.float32
        if self.precision == "bf16":
            frozen, dtype = frozen.bfloat16(), torch.bfloat16
        x_frozen = self.x_last.to(dtype)
        return {
            "textbook": lambda: textbook.pgd(self.plain, self.x, self.y, **settings),
            **peers.attacks(found, self.plain, self.x, self.y, **settings),
            "seladv": lambda: seladv(self.precision),
            "seladv fp32": lambda: seladv("fp32"),
            LIMITS[0]: lambda: self._passes(self.model, self.x_last, self.precision),
            LIMITS[1]: lambda: self._passes(frozen, x_frozen, "fp32"),
        }

    def _passes(self, model: nn.Module, x: Tensor, number_format: str) -> Tensor:
        """Forward and backward passes to the input, as many as the attack makes, and nothing besides."""
        x = x.detach().requires_grad_()
        with precision.autocast(number_format, self.device):
            for _ in range(self.case.steps):
                logits = model(x)
                (gradient,) = torch.autograd.grad(logits, x, torch.ones_like(logits))
        return gradient

    def _scorers(self) -> Calls:
        def forward() -> Tensor:
            with precision.autocast(self.precision, self.device), eval_mode(self.model), torch.no_grad():
                return self.model(self.x_last)

        def score(name: str) -> Tensor:
            with precision.autocast(self.precision, self.device):
                return SELECTORS[name](self.model, self.x_last, self.y, self.batch // 2)

        return {"forward": forward} | {name: partial(score, name) for name in ("margin", "gradmatch-last")}

    def run(self) -> tuple[timing.Times, list[dict[str, Any]]]:
        """Seconds of an attack step or a scoring by contestant and round, and the rows of the report."""
        times, results = timing.interleave(self.attackers, repetitions=self.case.repetitions)
        times = {name: [value / self.case.steps for value in values] for name, values in times.items()}
        reached = {name: self._reached(name, x) for name, x in results.items() if name not in LIMITS}
        times |= timing.interleave(self.scorers, repetitions=self.case.repetitions, at_least=SCORING_SECONDS)[0]
        return times, [self._row(name, times.get(name), reached.get(name)) for name in self._names()]

    def named(self) -> Calls:
        """Every contestant's call, by a name that is its own among all contests."""
        return {f"{self.where}: {name}": call for name, call in (self.attackers | self.scorers).items()}

    def _names(self) -> tuple[str, ...]:
        return ("textbook", *peers.NAMES, "seladv", "seladv fp32", *LIMITS, "forward", "margin", "gradmatch-last")

    def _row(self, name: str, seconds: list[float] | None, reached: float | None) -> dict[str, Any]:
        return {
            "device": self.device.type,
            "network": self.case.name,
            "batch": self.batch,
            "row": name,
            "unit": "scoring of a batch" if name in self.scorers else "attack step",
            "seconds": timing.spread(seconds)._asdict() if seconds else None,
            "absent": None if seconds else "not installed",
            "loss_reached": reached,
        }

    def _reached(self, name: str, x_adv: Tensor) -> float:
        """The mean loss that an attack reached: a faster one that attacks less well would show here.

        Raises:
            RuntimeError: the attack left the ball around the images.
        """
        if (x_adv - self.x).abs().max() > self.case.eps + 1e-6:
            raise RuntimeError(f"{name} left the ball of eps = {self.case.eps}")
        with torch.no_grad():
            return cross_entropy(self.plain(x_adv), self.y).item()
