"""The training loop: the paper's objective, one source of randomness, paired arms, a complete history."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from seladv.attack import pgd
from seladv.data.images import Images, stream
from seladv.study.places import StudyError
from seladv.training import models
from seladv.training.run import Run
from seladv.training.train import train, training_step

CPU = torch.device("cpu")
ARMS = ("clean", "full", "random-50", "margin-50", "gradmatch-last-50")
arms = pytest.mark.parametrize("arm", ARMS)

Settings = dict[str, Any]
Data = dict[str, Images]


def equal(first: Run, second: Run) -> bool:
    weights = second.model.state_dict()
    return all(torch.equal(value, weights[name]) for name, value in first.model.state_dict().items())


# ---- one step

BATCH = torch.arange(22)


def one_step(settings: Settings, digits: Data, arm: str) -> tuple[Run, nn.Module, Tensor, Tensor]:
    """One step of SGD with lr 1: the run after it, its network before it, the chosen samples, the loss."""
    run = Run(settings | {"optimizer": "sgd", "lr": 1.0}, arm=arm, seed=0, data=digits, device=CPU)
    chosen, loss = training_step(run, BATCH)
    assert len(chosen) == run.arm.count(22)
    return run, models.build(settings["model"], seed=0), chosen, loss


def assert_updated(run: Run, model: nn.Module, loss: Tensor, expected: Tensor) -> None:
    """The loss is the expected one, and every weight went down its gradient."""
    torch.testing.assert_close(loss, expected.detach())
    gradients = torch.autograd.grad(expected, list(model.parameters()))
    for after, before, gradient in zip(run.model.parameters(), model.parameters(), gradients, strict=True):
        torch.testing.assert_close(after, before - gradient, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("arm", [*ARMS, "margin-10"])
def test_update_follows_the_mixed_objective(settings: Settings, digits: Data, arm: str) -> None:
    run, model, chosen, loss = one_step(settings, digits, arm)
    x, y = digits["train"].batch(BATCH)
    others = torch.tensor([index for index in range(22) if index not in chosen.tolist()], dtype=torch.long)
    x_adv = pgd(model, x[chosen], y[chosen], **run.attack, generator=stream(0, "attack"))
    attacked = cross_entropy(model(x_adv), y[chosen], reduction="sum")
    untouched = cross_entropy(model(x[others]), y[others], reduction="sum")
    assert_updated(run, model, loss, (attacked + untouched) / 22)


@pytest.mark.parametrize("arm", ["margin-50-whole", "margin-4-whole"])
def test_update_follows_the_authors_objective(settings: Settings, digits: Data, arm: str) -> None:
    run, model, chosen, loss = one_step(settings, digits, arm)
    x, y = digits["train"].batch(BATCH)
    expected = 0.2 * cross_entropy(model(x), y)
    if len(chosen):
        x_adv = pgd(model, x[chosen], y[chosen], **run.attack, generator=stream(0, "attack"))
        expected = expected + cross_entropy(model(x_adv), y[chosen])
    assert_updated(run, model, loss, expected)


def test_a_step_clears_old_gradients(settings: Settings, digits: Data) -> None:
    runs = [Run(settings, arm="full", seed=0, data=digits, device=CPU) for _ in range(2)]
    for weight in runs[1].model.parameters():
        weight.grad = torch.ones_like(weight)
    for run in runs:
        training_step(run, torch.arange(8))
    assert equal(*runs)


def test_batch_norm_freezes_after_the_warm_up(settings: Settings, digits: Data) -> None:
    run = Run(settings | {"warmup_epochs": 1}, arm="full-frozen", seed=0, data=digits, device=CPU)
    run.model = nn.Sequential(nn.BatchNorm2d(1), run.model)
    modes = []
    for history in ([], [{}]):
        run.history = history
        run.start_epoch()
        modes.append([module.training for module in run.model.modules()])
    assert all(modes[0])
    assert modes[1] == [True, False] + [True] * (len(modes[1]) - 2)


# ---- optimisers


def test_one_cycle_ends_with_the_run(settings: Settings, digits: Data) -> None:
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


@pytest.mark.parametrize(("name", "momentum"), [("sgd", {"momentum": 0.8}), ("adam", {"betas": (0.9, 0.999)})])
def test_optimisers_take_their_settings(settings: Settings, digits: Data, name: str, momentum: Settings) -> None:
    settings |= {"optimizer": name, "momentum": 0.8, "weight_decay": 0.01}
    run = Run(settings, arm="clean", seed=0, data=digits, device=CPU)
    expected = {"lr": 0.001, "weight_decay": 0.01, **momentum}
    for _ in range(7):  # the constant schedule leaves the rate as it is
        run.optimizer.step()
        run.schedule.step()
    assert {key: run.optimizer.param_groups[0][key] for key in expected} == expected


# ---- randomness


@pytest.mark.parametrize("arm", ["full", "random-50", "gradmatch-50", "margin-sampled-50"])
def test_seed_determines_the_weights(settings: Settings, digits: Data, arm: str) -> None:
    first, again, other = (train(settings, arm=arm, seed=seed, data=digits, device=CPU) for seed in (0, 0, 1))
    assert equal(first, again)
    assert not equal(first, other)


@pytest.mark.parametrize("arm", ["full", "random-50"])
def test_global_generator_is_not_used(settings: Settings, digits: Data, arm: str) -> None:
    runs = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        runs.append(train(settings, arm=arm, seed=0, data=digits, device=CPU))
        assert torch.equal(torch.get_rng_state(), before)
    assert equal(*runs)


def test_arms_start_from_the_same_weights(settings: Settings, digits: Data) -> None:
    first, *others = (Run(settings, arm=arm, seed=3, data=digits, device=CPU) for arm in ARMS)
    assert all(equal(first, other) for other in others)


def test_arms_see_the_same_batches(settings: Settings, digits: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []

    def spy(run: Run, index: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(index)
        return training_step(run, index)

    monkeypatch.setattr("seladv.training.train.training_step", spy)
    for arm in ARMS:
        train(settings, arm=arm, seed=3, data=digits, device=CPU)
    train(settings, arm="clean", seed=0, data=digits, device=CPU)
    orders = [torch.cat(seen[start : start + 5]).tolist() for start in range(0, len(seen), 5)]
    assert len(orders) == 2 * len(ARMS) + 2
    assert all(sorted(order) == list(range(150)) for order in orders)
    *paired, other, last = orders
    assert all(paired[n : n + 2] == paired[:2] for n in range(0, len(paired), 2))
    assert len({str(order) for order in (*paired[:2], other, last)}) == 4  # each epoch and seed has its own order


def test_selection_does_not_shift_the_attacks_start(settings: Settings, digits: Data) -> None:
    first, *others = (
        train(settings, arm=arm, seed=0, data=digits, device=CPU).generators["attack"].get_state()
        for arm in ("margin-50", "random-50", "gradmatch-50")
    )
    assert all(torch.equal(first, other) for other in others)


def test_every_epoch_augments_anew(settings: Settings, digits: Data) -> None:
    run = Run(settings | {"augment": {"crop": 1, "flip": True}}, arm="clean", seed=0, data=digits, device=CPU)
    (x, y), (again, classes) = (run.batch(torch.arange(40)) for _ in range(2))
    assert x.dtype == torch.float32
    assert torch.equal(y, classes)
    assert not torch.equal(x, again)


# ---- failure


@arms
def test_infinite_loss_stops_the_run(settings: Settings, digits: Data, arm: str) -> None:
    with pytest.raises(StudyError, match=r"^the loss is (nan|inf) in epoch 1, batch 2; .*smaller lr than 1e\+30$"):
        train(settings | {"lr": 1e30}, arm=arm, seed=0, data=digits, device=CPU)


def test_infinite_weights_are_no_result(settings: Settings, digits: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    def poisonous(run: Run, index: Tensor) -> tuple[Tensor, Tensor]:
        result = training_step(run, index)
        next(run.model.parameters()).data[0] = float("inf")
        return result

    monkeypatch.setattr("seladv.training.train.training_step", poisonous)
    with pytest.raises(StudyError, match=r"^a weight is not finite after the last epoch; .*smaller lr than 0\.001$"):
        train(settings | {"batch_size": 150, "epochs": 1}, arm="full", seed=0, data=digits, device=CPU)


# ---- history


@arms
def test_history_has_a_line_per_epoch(settings: Settings, digits: Data, arm: str) -> None:
    lines: list[str] = []
    run = train(settings, arm=arm, seed=0, data=digits, device=CPU, report=lines.append)
    assert [line["epoch"] for line in run.history] == [1, 2]
    assert len(lines) == 2
    assert not any("\n" in line for line in lines)
    for line in run.history:
        assert line["loss"] > 0
        assert 0 <= line["heldout_robust"] <= 100
        assert 0 <= line["heldout_clean"] <= 100
        assert sum(line["selected_classes"]) == pytest.approx(0 if arm == "clean" else 1)
        assert set(line["seconds"]) == set(line["passes"]) == {"scoring", "attack", "update", "monitor"}
        assert line["epoch_seconds"] > 0
    never = [line["never_selected"] for line in run.history]
    assert never[1] <= never[0]
    if arm in ("clean", "full"):
        assert never == [float(arm == "clean")] * 2


def test_half_is_never_selected_in_one_epoch(settings: Settings, digits: Data) -> None:
    run = train(settings | {"epochs": 1}, arm="margin-50", seed=0, data=digits, device=CPU)
    assert run.history[0]["never_selected"] == 0.5  # 150 = 4 · 32 + 22: every batch is even


def test_full_selects_classes_by_their_frequency(settings: Settings, digits: Data) -> None:
    run = train(settings | {"epochs": 1}, arm="full", seed=0, data=digits, device=CPU)
    counts = digits["train"].labels.bincount()
    assert run.history[0]["selected_classes"] == pytest.approx((counts / counts.sum()).tolist())


def test_loss_is_the_mean_over_samples(settings: Settings, digits: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, float]] = []

    def spy(run: Run, index: Tensor) -> tuple[Tensor, Tensor]:
        chosen, loss = training_step(run, index)
        seen.append((len(index), loss.item()))
        return chosen, loss

    monkeypatch.setattr("seladv.training.train.training_step", spy)
    run = train(settings | {"epochs": 1}, arm="full", seed=0, data=digits, device=CPU)
    assert run.history[0]["loss"] == pytest.approx(sum(count * loss for count, loss in seen) / 150)
