"""Proxies compared with the exact score, on a run's own networks and batches."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import quick
from torch import Tensor
from torch.func import functional_call, grad, vmap
from torch.nn.functional import cosine_similarity, cross_entropy

from seladv.data.images import Images
from seladv.evaluation import fidelity
from seladv.selection import SELECTORS
from seladv.study.places import StudyError
from seladv.training import checkpoint, models
from seladv.training.run import Run
from seladv.training.train import train

CPU = torch.device("cpu")
ARM = "gradmatch-50"


def fresh(digits: dict[str, Images], arm: str = ARM) -> Run:
    return Run(quick(), arm=arm, seed=3, data=digits, device=CPU)


@pytest.fixture(scope="module")
def finished(digits: dict[str, Images], tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Path]:
    """A trained run, and the folder with its networks."""
    run, folder = train(quick(), arm=ARM, seed=3, data=digits, device=CPU), tmp_path_factory.mktemp("networks")
    networks = {"last": run.model.state_dict(), **run.kept}
    checkpoint.save_networks(folder, networks, model="digits-cnn", classes=10)
    return run, folder


@pytest.fixture(scope="module")
def result(finished: tuple[Run, Path], digits: dict[str, Images]) -> dict[str, Any]:
    return fidelity.measure(fresh(digits), finished[1])


def test_selectors() -> None:
    assert {fidelity.EXACT, *fidelity.PROXIES} <= {*SELECTORS}


def test_networks(finished: tuple[Run, Path], digits: dict[str, Images]) -> None:
    trained, folder = finished
    run, epochs = fresh(digits), quick()["epochs"]
    expected = {
        ("start", 0): models.build("digits-cnn", seed=3, classes=10).state_dict(),
        ("middle", -(-epochs // 2)): trained.kept["middle"],
        ("end", epochs): trained.model.state_dict(),
    }
    seen = []
    for phase, epoch, _ in fidelity.networks(run, folder):
        seen.append((phase, epoch))
        weights = expected[phase, epoch]
        assert all(torch.equal(value, weights[name]) for name, value in run.model.state_dict().items()), phase
    assert seen == list(expected)


def test_next_batches(finished: tuple[Run, Path], digits: dict[str, Images]) -> None:
    training = fresh(digits)
    orders = [training.start_epoch() for _ in range(quick()["epochs"] + 1)]
    for _, epoch, batches in fidelity.networks(fresh(digits), finished[1]):
        assert [index.tolist() for index in batches] == [index.tolist() for index in orders[epoch]]


def test_exact_score(finished: tuple[Run, Path], digits: dict[str, Images]) -> None:
    """The cosine of a sample's gradient, of all parameters, with the batch's mean gradient."""
    run = fresh(digits)
    run.model.load_state_dict(finished[0].model.state_dict())
    x, y = run.batch(run.start_epoch()[0])

    def loss(weights: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        return cross_entropy(functional_call(run.model, weights, (image[None],)), label[None])

    run.model.eval()
    weights = {name: weight.detach() for name, weight in run.model.named_parameters()}
    gradients = torch.cat([g.flatten(1) for g in vmap(grad(loss), (None, 0, 0))(weights, x, y).values()], dim=1)
    expected = cosine_similarity(gradients, gradients.mean(dim=0, keepdim=True))
    run.model.train()
    torch.testing.assert_close(fidelity.scores(run, x, y)[fidelity.EXACT], expected, rtol=0, atol=1e-3)


def test_agreement() -> None:
    exact = torch.tensor([0.1, 0.9, 0.5, 0.7, 0.3, 0.2])
    assert fidelity.correlation(exact**3, exact) == pytest.approx(1)
    assert fidelity.correlation(-exact, exact) == pytest.approx(-1)
    assert fidelity.correlation(torch.ones(6), exact) == 0
    assert fidelity.overlap(exact**3, exact, 3) == 1
    assert fidelity.overlap(-exact, exact, 3) == 0
    assert fidelity.overlap(torch.tensor([1.0, 2, 0, 0, 0, 0]), exact, 2) == 0.5


def test_result(result: dict[str, Any]) -> None:
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


def test_repeatable(result: dict[str, Any], finished: tuple[Run, Path], digits: dict[str, Images]) -> None:
    torch.rand(7)
    assert fidelity.measure(fresh(digits), finished[1])["phases"] == result["phases"]


@pytest.mark.parametrize("arm", ["full", "clean", "margin-1"])
def test_arm_that_selects_nothing(arm: str, digits: dict[str, Images], tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"^fidelity: an arm is needed that selects"):
        fidelity.measure(fresh(digits, arm), tmp_path)


def test_untrained_run(digits: dict[str, Images], tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"middle\.safetensors does not exist: run the stage"):
        fidelity.measure(fresh(digits), tmp_path)


def test_network_unchanged(digits: dict[str, Images]) -> None:
    run = fresh(digits)
    x, y = run.batch(run.start_epoch()[0])
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    fidelity.agreement(run, [(x, y)])
    fidelity.costs(run, [(x, y)])
    assert run.model.training
    assert all(torch.equal(value, before[name]) for name, value in run.model.state_dict().items())
