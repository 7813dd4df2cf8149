"""The cost of a run: its passes by a formula, compared with the passes that hooks on the network count."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from seladv import frozen
from seladv.data.images import Images
from seladv.selection import CRITERIA, gradmatch
from seladv.training import cost, forecast
from seladv.training.monitor import finish_epoch, summary
from seladv.training.run import Run
from seladv.training.train import train, train_epoch

CPU = torch.device("cpu")
N, B, K = 150, 32, 2  # samples, batch size, attack steps
BATCHES = [32, 32, 32, 32, 22]

Settings = dict[str, Any]
Data = dict[str, Images]


class Witness(cost.Clock):
    """A clock that also counts, in each phase, the samples whose pass through the network really runs.

    A backward pass counts when its gradient arrives at the logits, and one to the weights when a gradient arrives at
    the first weight. Exact matching computes no gradient of a weight: its products with the first layer count instead.
    """

    def __init__(self, run: Run, monkeypatch: pytest.MonkeyPatch):
        super().__init__(CPU)
        self.passes, self.phase, self.reached = cost.none(), "", 0
        first = next(module for module in run.model.modules() if isinstance(module, nn.Conv2d))
        for model in {run.model, run.frozen.network}:
            model.register_forward_hook(self.forward)
        run.frozen.built = frozen._build(run.model)  # the copy has the hook, too
        first.weight.register_hook(self.weights)
        products = gradmatch.products

        def counted(module: nn.Module, a: Tensor, *args: Any, **kwargs: Any) -> Any:
            self.count("weight_grad", len(a) * (module is first))
            return products(module, a, *args, **kwargs)

        monkeypatch.setattr(gradmatch, "products", counted)

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        self.phase, self.reached = phase, 0
        with super().__call__(phase):
            yield
        self.phase = ""

    def count(self, name: str, samples: int) -> None:
        if samples:
            self.passes[self.phase][name] += samples  # a pass outside of every phase is a KeyError

    def forward(self, model: nn.Module, inputs: tuple[Tensor, ...], logits: Tensor) -> None:
        self.count("forward", len(inputs[0]))
        if logits.requires_grad:
            logits.register_hook(lambda gradient: self.backward(len(gradient)))

    def backward(self, samples: int) -> None:
        self.count("input_grad", samples)
        self.reached += samples

    def weights(self, gradient: Tensor) -> None:
        self.count("weight_grad", self.reached)
        self.reached = 0


@pytest.mark.parametrize(
    "arm",
    ["clean", "full", "full-k1", "full-frozen", "fgsm", "nfgsm", "margin-31", "margin-100", "gradmatch-last-4",
     "margin-50-stale", "margin-50-whole", "margin-50-warmup", "gradmatch-50-warmup", "as-coded-gradmatch",
     *(f"{name}-50" for name in CRITERIA)],
)  # fmt: skip
def test_passes_are_those_that_ran(settings: Settings, digits: Data, monkeypatch: pytest.MonkeyPatch, arm: str) -> None:
    """In a warm-up epoch and in the one after it, held-out evaluation included."""
    run = Run(settings | {"warmup_epochs": 1, "steps": K}, arm=arm, seed=0, data=digits, device=CPU)
    run.clock = witness = Witness(run, monkeypatch)
    for _ in range(2):
        witness.passes = cost.none()
        line = finish_epoch(run, seconds=train_epoch(run))
        assert line["passes"] == witness.passes
        assert witness.passes["update"]["weight_grad"] >= N


@pytest.mark.parametrize(
    ("arm", "percent", "score"),
    [("clean", 0, 0), ("full", 100, 0), ("random-50", 50, 0), ("margin-50", 50, 1), ("gradmatch-last-50", 50, 1),
     ("gradmatch-50", 50, 3), ("margin-31", 31, 1), ("gradmatch-last-4", 4, 1), ("margin-100", 100, 1)],
)  # fmt: skip
def test_passes_of_one_epoch(settings: Settings, digits: Data, arm: str, percent: int, score: int) -> None:
    chosen = [batch * percent // 100 for batch in BATCHES]  # 4 % takes one of 32, and none of the last 22
    scored = sum(batch for batch, k in zip(BATCHES, chosen, strict=True) if 0 < k < batch)
    passes = one_epoch(settings, digits, arm)
    assert list(passes["scoring"].values()) == [scored * (place < score) for place in range(3)]
    assert passes["attack"] == {"forward": K * sum(chosen), "input_grad": K * sum(chosen), "weight_grad": 0}
    assert passes["update"] == {"forward": N, "input_grad": N, "weight_grad": N}
    assert cost.attack_passes(passes) == 2 * K * sum(chosen)
    assert cost.total_passes(passes) == score * scored + 2 * K * sum(chosen) + 3 * N


def one_epoch(settings: Settings, digits: Data, arm: str) -> cost.Tally:
    run = train(settings | {"epochs": 1, "steps": K, "batch_size": B}, arm=arm, seed=0, data=digits, device=CPU)
    passes: cost.Tally = run.history[0]["passes"]
    return passes


def test_monitor_is_left_out_of_the_total(settings: Settings, digits: Data) -> None:
    passes = one_epoch(settings, digits, "full")
    heldout = len(digits["heldout"].labels)
    assert passes["monitor"] == {"forward": (4 + K) * heldout, "input_grad": (1 + K) * heldout, "weight_grad": 0}
    without = passes | {"monitor": dict.fromkeys(cost.PASSES, 0)}
    assert cost.total_passes(passes) == cost.total_passes(without)


def test_half_selection_halves_the_attack(settings: Settings, digits: Data) -> None:
    whole = {**digits, "train": Images(*(part[: 4 * B] for part in digits["train"]))}
    half, full = (one_epoch(settings, whole, arm) for arm in ("margin-50", "full"))
    assert 2 * cost.attack_passes(half) == cost.attack_passes(full)


def test_cost_of_a_run_is_the_sum_of_its_epochs(settings: Settings, digits: Data) -> None:
    run = train(settings | {"epochs": 3}, arm="margin-50", seed=0, data=digits, device=CPU)
    total = summary(run)["cost"]
    for name, count in (("attack_passes", cost.attack_passes), ("total_passes", cost.total_passes)):
        assert total[name] == sum(count(line["passes"]) for line in run.history)
    for phase in cost.PHASES:
        assert total["seconds"][phase] == pytest.approx(sum(line["seconds"][phase] for line in run.history))
    assert 3 * total["seconds_per_epoch"] == pytest.approx(sum(line["epoch_seconds"] for line in run.history))
    assert run.history[0]["passes"]["update"]["forward"] == N  # adding up has not changed the epochs


@pytest.mark.parametrize("arm", ["clean", "full", "full-k1", "fgsm", "margin-50-stale", "margin-50-whole",
                                 *(f"{name}-50" for name in CRITERIA)])  # fmt: skip
def test_forecast_of_passes(settings: Settings, digits: Data, arm: str) -> None:
    even = {**digits, "train": Images(*(part[:128] for part in digits["train"]))}
    counted = cost.total_passes(one_epoch(settings, even, arm))
    assert forecast.passes(arm, settings | {"steps": K}) * 128 == counted


# ---- seconds


def test_clock_charges_the_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter(range(100))
    monkeypatch.setattr("time.perf_counter", lambda: next(times) ** 2)
    clock = cost.Clock(CPU)
    for phase in ("scoring", "attack", "attack"):
        with clock(phase):
            pass
    assert clock.take() == {"scoring": 1, "attack": 5 + 9, "update": 0, "monitor": 0}
    assert clock.take() == dict.fromkeys(cost.PHASES, 0)


def test_phases_fit_into_the_epoch(settings: Settings, digits: Data) -> None:
    run = Run(settings, arm="margin-50", seed=0, data=digits, device=CPU)
    seconds = train_epoch(run)
    phases = finish_epoch(run, seconds=seconds)["seconds"]
    assert all(value > 0 for value in phases.values())
    assert sum(phases[phase] for phase in ("scoring", "attack", "update")) < seconds
