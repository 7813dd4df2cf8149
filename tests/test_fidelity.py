"""Proxies beside the exact score: what agreement means, whose networks and batches, and what is concluded."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import quick
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.functional import cosine_similarity, cross_entropy

from seladv import fidelity, fidelity_report, models, record
from seladv.data import Images
from seladv.run import Run
from seladv.selection import SELECTORS
from seladv.train import train

CPU = torch.device("cpu")
ARM = "gradmatch-50"


def fresh(digits: dict[str, Images], arm: str = ARM, **changes: Any) -> Run:
    return Run(quick() | changes, arm=arm, seed=3, data=digits, device=CPU)


@pytest.fixture(scope="module")
def finished(digits: dict[str, Images], tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Path]:
    """A run that was trained, and the folder that it left."""
    run, folder = train(quick(), arm=ARM, seed=3, data=digits, device=CPU), tmp_path_factory.mktemp("networks")
    record.save_models(folder, run)
    return run, folder


@pytest.fixture(scope="module")
def result(finished: tuple[Run, Path], digits: dict[str, Images]) -> dict[str, Any]:
    return {"protocol": "digits", "run": "gradmatch-50-3", **fidelity.measure(fresh(digits), finished[1])}


def test_every_criterion_of_the_study_is_offered_to_a_loop_of_ones_own() -> None:
    assert {"random", "margin", "gradmatch", "gradmatch-last", "gradmatch-logit", "graddot", "el2n"} <= {*SELECTORS}
    assert {fidelity.EXACT, *fidelity.PROXIES} <= {*SELECTORS}


def test_the_networks_are_the_fresh_one_the_middle_and_the_last(
    finished: tuple[Run, Path], digits: dict[str, Images]
) -> None:
    trained, folder = finished
    run, seen = fresh(digits), {}
    for phase, epoch in fidelity.networks(run, folder):
        seen[phase] = epoch, {name: value.clone() for name, value in run.model.state_dict().items()}
    epochs = quick()["epochs"]
    assert {phase: epoch for phase, (epoch, _) in seen.items()} == {
        "start": 0,
        "middle": -(-epochs // 2),
        "end": epochs,
    }
    expected = {
        "start": models.build("digits-cnn", seed=3, classes=10).state_dict(),
        "middle": trained.kept["middle"],
        "end": trained.model.state_dict(),
    }
    for phase, weights in expected.items():
        assert all(torch.equal(value, weights[name]) for name, value in seen[phase][1].items()), phase


def test_the_batches_are_those_that_training_takes_next(finished: tuple[Run, Path], digits: dict[str, Images]) -> None:
    run, training = fresh(digits), fresh(digits)
    orders = [training.order]
    for _ in range(quick()["epochs"]):
        training.start_epoch()
        orders.append(training.order)
    for _, epoch in fidelity.networks(run, finished[1]):
        assert torch.equal(run.order, orders[epoch])


def test_the_exact_score_is_the_cosine_of_whole_gradients(
    finished: tuple[Run, Path], digits: dict[str, Images]
) -> None:
    run = fresh(digits)
    run.model.load_state_dict(finished[0].model.state_dict())
    x, y = run.batch(run.batches()[0])

    def loss(weights: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        return cross_entropy(functional_call(run.model, weights, (image[None],)), label[None])

    run.model.eval()
    weights = {name: weight.detach() for name, weight in run.model.named_parameters()}
    gradients = torch.cat([g.flatten(1) for g in vmap(grad(loss), (None, 0, 0))(weights, x, y).values()], dim=1)
    expected = cosine_similarity(gradients, gradients.mean(dim=0, keepdim=True))
    run.model.train()
    torch.testing.assert_close(fidelity.scores(run, x, y)[fidelity.EXACT], expected, rtol=0, atol=1e-3)


def test_agreement_is_rank_correlation_and_the_share_of_the_same_choice() -> None:
    exact = torch.tensor([0.1, 0.9, 0.5, 0.7, 0.3, 0.2])
    assert fidelity.correlation(exact**3, exact) == pytest.approx(1)
    assert fidelity.correlation(-exact, exact) == pytest.approx(-1)
    assert fidelity.correlation(torch.ones(6), exact) == 0
    assert fidelity.overlap(exact**3, exact, 3) == 1
    assert fidelity.overlap(-exact, exact, 3) == 0
    assert fidelity.overlap(torch.tensor([1.0, 2, 0, 0, 0, 0]), exact, 2) == 0.5


def test_every_phase_compares_every_proxy(result: dict[str, Any]) -> None:
    assert [phase["phase"] for phase in result["phases"]] == ["start", "middle", "end"]
    for phase in result["phases"]:
        assert set(phase["agreement"]) == {*fidelity.PROXIES, fidelity.ROUNDED}
        for values in phase["agreement"].values():
            assert -1 <= values["correlation"] <= 1 + 1e-9
            assert 0 <= values["least_overlap"] <= values["overlap"] <= 1
        assert phase["batches"] == 4  # of 150 images in batches of 32; the fifth is a smaller one
        assert phase["agreement"][fidelity.ROUNDED]["correlation"] > 0.9
    assert set(result["cost"]) == {fidelity.EXACT, fidelity.PASS, *fidelity.PROXIES}
    assert min(result["cost"].values()) > 0
    assert len(json.dumps(result)) < 5000


def test_only_the_order_the_weights_and_the_seed_decide(
    result: dict[str, Any], finished: tuple[Run, Path], digits: dict[str, Images]
) -> None:
    torch.rand(7)
    assert fidelity.measure(fresh(digits), finished[1])["phases"] == result["phases"]


@pytest.mark.parametrize("arm", ["full", "clean", "margin-1"])
def test_an_arm_that_chooses_nothing_is_refused(arm: str, digits: dict[str, Images], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^fidelity: an arm is needed that selects"):
        fidelity.measure(fresh(digits, arm), tmp_path)


def test_a_run_that_was_not_trained_is_named(digits: dict[str, Images], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"middle\.safetensors does not exist: run the stage"):
        fidelity.measure(fresh(digits), tmp_path)


def made(overlaps: dict[str, tuple[float, float, float]], *, exact: float = 4.0) -> dict[str, Any]:
    """A result by hand: PGD-10, half of the batch, a pass of the attack of 2 F."""
    names = (*fidelity.PROXIES, fidelity.ROUNDED)
    phases = [
        {
            "phase": phase, "epoch": 5 * number, "batches": 2,
            "agreement": {n: {"correlation": 0.5, "overlap": overlaps.get(n, (0.5,) * 3)[number]} for n in names},
        }
        for number, phase in enumerate(("start", "middle", "end"))
    ]  # fmt: skip
    cost = {fidelity.EXACT: exact, fidelity.PASS: 2.0, **{name: 1 + i / 10 for i, name in enumerate(fidelity.PROXIES)}}
    facts = {"protocol": "digits", "run": "gradmatch-50-0", "percent": 50, "steps": 10, "batch_size": 64, "chosen": 32}
    return {**facts, "precision": "fp32", "phases": phases, "cost": cost}


def test_the_cheapest_of_the_faithful_proxies_is_advised() -> None:
    faithful = {"gradmatch-last": (0.8, 0.95, 0.93), "gradmatch-logit": (0.9, 0.91, 0.92), "margin": (1, 1, 0.89)}
    assert fidelity_report.choice(made(faithful)) == "gradmatch-last"
    assert "Use `gradmatch-last`" in fidelity_report.conclusion(made(faithful))
    assert "93 % or more, and 80 % on the" in fidelity_report.conclusion(made(faithful))
    assert fidelity_report.choice(made(faithful, exact=0.5)) == fidelity.EXACT  # none is cheaper
    assert "closest is `margin` with 89 %" in fidelity_report.conclusion(made({"margin": (1, 1, 0.89)}))


@pytest.mark.parametrize(
    ("exact", "says"),
    [
        (4.0, "so takes 40 % of that back. It costs more than it saves with fewer than 4 steps at this share, or, at"),
        (4.0, "at these steps, with more than 80 % of the batch attacked."),
        (12.0, "so costs more than it saves. It costs more than it saves with fewer than 12 steps at this share, or,"),
        (12.0, "at these steps, with more than 40 % of the batch attacked."),
        (30.0, "at these steps, however few are attacked."),
    ],
)
def test_the_balance_is_of_what_selection_saves(exact: float, says: str) -> None:
    """K (1 − r) (F + B) = 10 · ½ · 2 F."""
    text = fidelity_report.balance(made({}, exact=exact))
    assert "K (1 − r) (F + B) = 10.0 F per sample" in text
    assert says in text


def test_the_page_has_every_number_of_the_result(result: dict[str, Any]) -> None:
    rows = {line.split(" | ")[0].strip("| *"): line for line in fidelity_report.table(result).splitlines()}
    for name in (*fidelity.PROXIES, fidelity.ROUNDED):
        for phase in result["phases"]:
            assert f" {phase['agreement'][name]['correlation']:.2f} |" in rows[name]
            assert f" {100 * phase['agreement'][name]['overlap']:.0f} % |" in rows[name]
    page = fidelity_report.page(result)
    assert fidelity_report.table(result) in page
    assert fidelity_report.conclusion(result) in page


def test_the_figure_has_a_line_for_every_proxy_in_both_panels(result: dict[str, Any]) -> None:
    for axis, kind in zip(fidelity_report.figure(result).axes, fidelity_report.KINDS, strict=True):
        drawn = [list(line.get_ydata()) for line in axis.lines]
        for name in (*fidelity.PROXIES, fidelity.ROUNDED):
            assert [phase["agreement"][name][kind] for phase in result["phases"]] in drawn


def test_a_network_is_left_in_the_mode_that_it_was_in(finished: tuple[Run, Path], digits: dict[str, Images]) -> None:
    run = fresh(digits)
    x, y = run.batch(run.batches()[0])
    before: dict[str, Tensor] = {name: value.clone() for name, value in run.model.state_dict().items()}
    fidelity.agreement(run, [(x, y)])
    fidelity.costs(run, [(x, y)])
    assert isinstance(run.model, nn.Module)
    assert run.model.training
    assert all(torch.equal(value, before[name]) for name, value in run.model.state_dict().items())
