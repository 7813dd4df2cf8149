"""The loop: the paper's objective, one source of randomness, paired arms, an honest history."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from seladv import models, optimizers
from seladv.attack import pgd
from seladv.data import Images
from seladv.run import Run
from seladv.seeds import stream
from seladv.train import TrainingError, train, training_step

CPU = torch.device("cpu")
ARMS = ("clean", "full", "random-50", "margin-50", "gradmatch-last-50")
arms = pytest.mark.parametrize("arm", ARMS)

Settings = dict[str, Any]
Data = dict[str, Images]


def weights(run: Run) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in run.model.state_dict().items()}


def equal(first: Run, second: Run) -> bool:
    return all(torch.equal(value, weights(second)[name]) for name, value in weights(first).items())


# ---- one step


@pytest.mark.parametrize("arm", [*ARMS, "margin-10"])
def test_the_loss_is_the_mixed_objective_and_the_update_follows_its_gradient(
    settings: Settings, digits: Data, arm: str
) -> None:
    run = Run(settings, arm=arm, seed=0, data=digits, device=CPU)
    run.optimizer = torch.optim.SGD(run.model.parameters(), lr=1)
    run.schedule = optimizers.constant(run.optimizer, settings, 1)
    model = models.build(settings["model"], seed=0)
    x, y = run.train.batch(torch.arange(22))
    chosen, loss = training_step(run, torch.arange(22))

    others = torch.tensor([index for index in range(22) if index not in chosen.tolist()], dtype=torch.long)
    x_adv = pgd(model, x[chosen], y[chosen], **run.attack, generator=stream(0, "attack"))
    attacked = cross_entropy(model(x_adv), y[chosen], reduction="sum")
    untouched = cross_entropy(model(x[others]), y[others], reduction="sum")
    mixed = (attacked + untouched) / 22
    assert len(chosen) == run.arm.count(22)
    torch.testing.assert_close(loss, mixed.detach())
    gradients = torch.autograd.grad(mixed, list(model.parameters()))
    for after, before, gradient in zip(run.model.parameters(), model.parameters(), gradients, strict=True):
        torch.testing.assert_close(after, before - gradient, atol=1e-6, rtol=1e-5)


def test_a_step_forgets_the_gradients_of_the_one_before(settings: Settings, digits: Data) -> None:
    runs = [Run(settings, arm="full", seed=0, data=digits, device=CPU) for _ in range(2)]
    for weight in runs[1].model.parameters():
        weight.grad = torch.ones_like(weight)
    for run in runs:
        training_step(run, torch.arange(8))
    assert equal(*runs)


# ---- randomness


@pytest.mark.parametrize("arm", ["full", "random-50", "gradmatch-50", "margin-sampled-50"])
def test_same_seed_same_weights_other_seed_others(settings: Settings, digits: Data, arm: str) -> None:
    first, again, other = (train(settings, arm=arm, seed=seed, data=digits, device=CPU) for seed in (0, 0, 1))
    assert equal(first, again)
    assert not equal(first, other)


@pytest.mark.parametrize("arm", ["full", "random-50"])
def test_the_global_generator_is_neither_used_nor_moved(settings: Settings, digits: Data, arm: str) -> None:
    runs = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        runs.append(train(settings, arm=arm, seed=0, data=digits, device=CPU))
        assert torch.equal(torch.get_rng_state(), before)
    assert equal(*runs)


def test_arms_of_one_seed_start_from_the_same_weights(settings: Settings, digits: Data) -> None:
    first, *others = (Run(settings, arm=arm, seed=3, data=digits, device=CPU) for arm in ARMS)
    assert all(equal(first, other) for other in others)


def test_arms_of_one_seed_see_the_same_batches_in_every_epoch(settings: Settings, digits: Data) -> None:
    for epochs in (0, 1, 2):  # the order that a finished run holds is that of the epoch it would have gone on with
        runs = [train(settings | {"epochs": epochs}, arm=arm, seed=3, data=digits, device=CPU) for arm in ARMS]
        assert all(torch.equal(run.order, runs[0].order) for run in runs)
        assert sorted(runs[0].order.tolist()) == list(range(150))


def test_every_epoch_and_every_seed_has_an_order_of_its_own(settings: Settings, digits: Data) -> None:
    orders = [
        tuple(train(settings | {"epochs": epochs}, arm="clean", seed=seed, data=digits, device=CPU).order.tolist())
        for epochs, seed in ((0, 0), (1, 0), (0, 1))
    ]
    assert len(set(orders)) == 3


def test_a_criterion_that_draws_does_not_shift_the_attacks_random_start(settings: Settings, digits: Data) -> None:
    first, *others = (
        train(settings, arm=arm, seed=0, data=digits, device=CPU).generators["attack"].get_state()
        for arm in ("margin-50", "random-50", "gradmatch-50")
    )
    assert all(torch.equal(first, other) for other in others)


# ---- failure


@pytest.mark.parametrize("arm", ARMS)
def test_a_loss_that_is_not_finite_stops_the_run_and_says_where(settings: Settings, digits: Data, arm: str) -> None:
    with pytest.raises(TrainingError, match=r"^the loss is (nan|inf) in epoch 1, batch 2; .*smaller lr than 1e\+30$"):
        train(settings | {"lr": 1e30}, arm=arm, seed=0, data=digits, device=CPU)


def test_a_weight_that_is_not_finite_after_the_last_step_is_no_result(
    settings: Settings, digits: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    def poisonous(run: Run, index: Tensor) -> tuple[Tensor, Tensor]:
        result = training_step(run, index)
        next(run.model.parameters()).data[0] = float("inf")
        return result

    monkeypatch.setattr("seladv.train.training_step", poisonous)
    with pytest.raises(TrainingError, match=r"^a weight is not finite after the last epoch; .*smaller lr than 0\.001$"):
        train(settings | {"batch_size": 150, "epochs": 1}, arm="full", seed=0, data=digits, device=CPU)


# ---- history


@arms
def test_every_epoch_leaves_a_whole_line(settings: Settings, digits: Data, arm: str) -> None:
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
    assert run.history[1]["never_selected"] <= run.history[0]["never_selected"]


@pytest.mark.parametrize(("arm", "share"), [("clean", 1), ("full", 0)])
def test_clean_never_selects_any_sample_and_full_misses_none(
    settings: Settings, digits: Data, arm: str, share: int
) -> None:
    run = train(settings, arm=arm, seed=0, data=digits, device=CPU)
    assert [line["never_selected"] for line in run.history] == [share, share]


def test_half_of_every_batch_leaves_half_of_the_samples_out(settings: Settings, digits: Data) -> None:
    run = train(settings | {"epochs": 1}, arm="margin-50", seed=0, data=digits, device=CPU)
    assert run.history[0]["never_selected"] == 0.5  # 150 = 4 · 32 + 22: every batch is even


def test_full_selects_every_class_as_often_as_it_is_there(settings: Settings, digits: Data) -> None:
    run = train(settings | {"epochs": 1}, arm="full", seed=0, data=digits, device=CPU)
    counts = digits["train"].labels.bincount()
    assert run.history[0]["selected_classes"] == pytest.approx((counts / counts.sum()).tolist())


def test_the_loss_is_the_mean_over_the_epochs_samples(
    settings: Settings, digits: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, float]] = []

    def spy(run: Run, index: Tensor) -> tuple[Tensor, Tensor]:
        chosen, loss = training_step(run, index)
        seen.append((len(index), loss.item()))
        return chosen, loss

    monkeypatch.setattr("seladv.train.training_step", spy)
    run = train(settings | {"epochs": 1}, arm="full", seed=0, data=digits, device=CPU)
    assert run.history[0]["loss"] == pytest.approx(sum(count * loss for count, loss in seen) / 150)
