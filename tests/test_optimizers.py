"""The schedule reaches both its ends, the average follows its formula, the optimisers take their settings."""

from typing import Any

import pytest
import torch
from conftest import Network

from seladv import optimizers
from seladv.data import Images
from seladv.run import Run
from seladv.train import train

CPU = torch.device("cpu")
Settings = dict[str, Any]


def test_one_cycle_rises_to_lr_falls_to_almost_nothing_and_ends_with_the_run(
    settings: Settings, digits: dict[str, Images]
) -> None:
    changes = {"optimizer": "sgd", "schedule": "one-cycle", "lr": 0.01, "epochs": 4}
    rates = []
    run = Run(settings | changes, arm="clean", seed=0, data=digits, device=CPU)
    for _ in range(4 * 5):
        rates.append(run.optimizer.param_groups[0]["lr"])
        run.optimizer.step()
        run.schedule.step()
    peak = rates.index(max(rates))
    assert max(rates) == pytest.approx(0.01)
    assert peak == 5  # of 20 updates: 30 % rise
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert rates[-1] < 1e-6


def test_sgd_and_adam_take_momentum_and_weight_decay(network: Network, settings: Settings) -> None:
    settings |= {"momentum": 0.8, "weight_decay": 0.01}
    sgd, adam = (optimizers.OPTIMIZERS[name](network(), settings).param_groups[0] for name in ("sgd", "adam"))
    assert (sgd["lr"], sgd["momentum"], sgd["weight_decay"]) == (0.001, 0.8, 0.01)
    assert (adam["lr"], adam["betas"], adam["weight_decay"]) == (0.001, (0.9, 0.999), 0.01)


def test_the_average_is_the_exponential_one_and_changes_no_training(
    settings: Settings, digits: dict[str, Images]
) -> None:
    plain = train(settings, arm="full", seed=0, data=digits, device=CPU)
    run = Run(settings | {"ema": 0.5}, arm="full", seed=0, data=digits, device=CPU)
    assert run.average is not None
    weight = next(run.model.parameters())
    expected = None
    for value in (1.0, 2.0, 4.0):
        torch.nn.init.constant_(weight, value)
        run.optimizer.zero_grad()
        run.update()
        expected = value if expected is None else 0.5 * expected + 0.5 * value
        torch.testing.assert_close(next(run.average.module.parameters()), torch.full_like(weight, expected))
    averaged = train(settings | {"ema": 0.5}, arm="full", seed=0, data=digits, device=CPU)
    for name, value in plain.model.state_dict().items():
        assert torch.equal(averaged.model.state_dict()[name], value)
