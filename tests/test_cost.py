"""Passes counted while training against the closed formula."""

import re
from typing import Any

import pytest
import torch

from seladv import cost, forecast, record
from seladv.data import Images
from seladv.run import Run
from seladv.selection import CRITERIA
from seladv.train import train

CPU = torch.device("cpu")
N, B, K = 150, 32, 2  # samples, batch size, attack steps: four whole batches and a partial one
BATCHES = [32, 32, 32, 32, 22]
SCORE = {"clean": 0, "full": 0, "random": 0, "margin": 1, "gradmatch-last": 1}  # forward passes per sample

Settings = dict[str, Any]


def one_epoch(settings: Settings, digits: dict[str, Images], arm: str) -> Run:
    return train(settings | {"epochs": 1, "steps": K, "batch_size": B}, arm=arm, seed=0, data=digits, device=CPU)


@pytest.mark.parametrize(
    ("arm", "percent"),
    [("clean", 0), ("full", 100), ("random-50", 50), ("margin-50", 50), ("gradmatch-last-50", 50), ("margin-31", 31),
     ("gradmatch-last-4", 4), ("margin-100", 100)],
)  # fmt: skip
def test_counted_passes_are_the_formulas(settings: Settings, digits: dict[str, Images], arm: str, percent: int) -> None:
    chosen = [batch * percent // 100 for batch in BATCHES]  # 4 % takes one of 32, and none of the last 22
    scored = sum(batch for batch, k in zip(BATCHES, chosen, strict=True) if 0 < k < batch)
    passes = one_epoch(settings, digits, arm).history[0]["passes"]
    assert passes["scoring"] == {
        "forward": SCORE[re.sub(r"-\d+$", "", arm)] * scored, "input_grad": 0, "weight_grad": 0
    }  # fmt: skip
    assert passes["attack"] == {"forward": K * sum(chosen), "input_grad": K * sum(chosen), "weight_grad": 0}
    assert passes["update"] == {"forward": N, "input_grad": N, "weight_grad": N}
    assert cost.attack_passes(passes) == 2 * K * sum(chosen)
    assert cost.total_passes(passes) == SCORE[re.sub(r"-\d+$", "", arm)] * scored + 2 * K * sum(chosen) + 3 * N


def test_the_monitor_is_counted_and_left_out_of_the_total(settings: Settings, digits: dict[str, Images]) -> None:
    passes = one_epoch(settings, digits, "full").history[0]["passes"]
    heldout = len(digits["heldout"].labels)
    assert passes["monitor"] == {"forward": (4 + K) * heldout, "input_grad": (1 + K) * heldout, "weight_grad": 0}
    without = passes | {"monitor": dict.fromkeys(cost.PASSES, 0)}
    assert cost.total_passes(passes) == cost.total_passes(without)


@pytest.mark.parametrize("arm", ["full", "margin-50"])
def test_every_forward_pass_is_charged_once(settings: Settings, digits: dict[str, Images], arm: str) -> None:
    run, seen = Run(settings, arm=arm, seed=0, data=digits, device=CPU), []
    run.model[0].register_forward_hook(lambda _, inputs, output: seen.append(len(output)))  # type: ignore[index]
    x, y = run.train.batch(torch.arange(B))
    with run.meter("scoring"):
        run.choose(torch.arange(B), x, y)
    with run.meter("monitor"):
        run.model(x)
    run.model(x[:5])  # outside any phase: nobody's cost
    assert sum(phase["forward"] for phase in run.meter.take()["passes"].values()) == sum(seen) - 5


def test_taking_the_tally_empties_it(settings: Settings, digits: dict[str, Images]) -> None:
    run = Run(settings, arm="full", seed=0, data=digits, device=CPU)
    with run.meter("update"):
        run.model(run.train.batch(torch.arange(B))[0]).sum().backward()
    assert run.meter.take()["passes"]["update"] == {"forward": B, "input_grad": B, "weight_grad": B}
    assert run.meter.take()["passes"]["update"] == {"forward": 0, "input_grad": 0, "weight_grad": 0}


def test_half_of_whole_batches_costs_half_of_fulls_attack(settings: Settings, digits: dict[str, Images]) -> None:
    whole = {**digits, "train": Images(*(part[: 4 * B] for part in digits["train"]))}
    half, full = (one_epoch(settings, whole, arm).history[0]["passes"] for arm in ("margin-50", "full"))
    assert 2 * cost.attack_passes(half) == cost.attack_passes(full)


def test_a_runs_cost_is_the_sum_of_its_epochs(settings: Settings, digits: dict[str, Images]) -> None:
    run = train(settings | {"epochs": 3}, arm="margin-50", seed=0, data=digits, device=CPU)
    summary = record.summary(run)["cost"]
    for name, count in (("attack_passes", cost.attack_passes), ("total_passes", cost.total_passes)):
        assert summary[name] == sum(count(line["passes"]) for line in run.history)
    for phase in cost.PHASES:
        assert summary["seconds"][phase] == pytest.approx(sum(line["seconds"][phase] for line in run.history))
    assert 3 * summary["seconds_per_epoch"] == pytest.approx(sum(line["epoch_seconds"] for line in run.history))
    assert run.history[0]["passes"]["update"]["forward"] == N  # adding up has not changed the epochs


@pytest.mark.parametrize("arm", ["clean", "full", "full-k1", "fgsm", "margin-50-stale", "margin-50-whole",
                                 *(f"{name}-50" for name in CRITERIA)])  # fmt: skip
def test_the_forecasts_passes_are_the_counted_ones(settings: Settings, digits: dict[str, Images], arm: str) -> None:
    even = {**digits, "train": Images(*(part[:128] for part in digits["train"]))}
    counted = cost.total_passes(one_epoch(settings, even, arm).history[0]["passes"])
    assert forecast.passes(arm, settings | {"steps": K}) * 128 == counted
