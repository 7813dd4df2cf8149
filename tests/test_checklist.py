"""The checklist: honest networks pass it, and networks built to mislead an attack do not."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from seladv import checklist, params
from seladv.checklist import added, at_least_as_strong, large_eps_breaks, slack, steps_suffice
from seladv.data import Images
from seladv.evaluate import evaluate
from seladv.params import Protocol
from seladv.train import train

QUICK = {"steps": 20, "examples": 40, "strong": 40, "fgsm": 40, "noise": 40, "square": 40, "queries": 300,
         "autoattack": 0, "curves": 40, "transfer": 40}  # fmt: skip
CHECKS = {
    "iterative-beats-single-step", "white-box-beats-gradient-free", "white-box-beats-noise", "steps-suffice",
    "large-eps-breaks", "gradients-exist", "inputs-in-range", "deterministic",
}  # fmt: skip


@pytest.fixture(scope="module")
def protocol(root: Path) -> Protocol:
    study = params.load(root / "params.yaml", "digits")
    return study.model_copy(update={"evaluate": study.evaluate.model_copy(update=QUICK)})


class Saturated(nn.Module):
    """Logits so large that the softmax is exactly one-hot: the loss has no gradient left in float32."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return 1e4 * self.inner(x)


class Quantised(Saturated):
    """Five grey levels: flat almost everywhere."""

    def forward(self, x: Tensor) -> Tensor:
        return self.inner((4 * x).round() / 4)


class Randomised(Saturated):
    """Another noise for every pass, in eval mode too."""

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x + 0.2 * torch.randn_like(x))


class Backwards(Saturated):
    """A gradient that points the wrong way: an attack that follows it makes the network surer."""

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(backwards(x))


class Homely(Saturated):
    """The right gradient on images of 256 grey levels, as the clean ones are, and the opposite anywhere else."""

    def forward(self, x: Tensor) -> Tensor:
        away = ((255 * x).round() - 255 * x).abs().amax(dim=(1, 2, 3), keepdim=True) > 1e-3
        return self.inner(torch.where(away, backwards(x), x))


def backwards(x: Tensor) -> Tensor:
    """The same values, the opposite gradient."""
    return 2 * x.detach() - x


def failed(model: nn.Module, test: Images, protocol: Protocol) -> set[str]:
    """The names of the failed checks; the mark must agree with them."""
    torch.manual_seed(0)
    metrics = evaluate(model, test, protocol, seed=0)
    assert {item["check"] for item in metrics["checklist"]} == CHECKS
    found = {item["check"] for item in metrics["checklist"] if not item["passed"]}
    assert metrics["masked_gradients"] == bool(found)
    return found


def learnt(arm: str, digits: dict[str, Images], root: Path) -> nn.Module:
    """A network that classifies most of the digits."""
    settings = params.load(root / "params.yaml", "digits").training()
    less = {"epochs": 15, "steps": 5, "step_size": 0.05, "batch_size": 16, "precision": "fp32"}
    return train(settings | less, arm=arm, seed=0, data=digits, device=torch.device("cpu"), report=lambda _: None).model


@pytest.fixture(scope="module")
def honest(digits: dict[str, Images], root: Path) -> nn.Module:
    return learnt("clean", digits, root)


@pytest.fixture(scope="module")
def robust(digits: dict[str, Images], root: Path) -> nn.Module:
    return learnt("full", digits, root)


def test_an_honest_network_passes(honest: nn.Module, digits: dict[str, Images], protocol: Protocol) -> None:
    assert failed(honest, digits["test"], protocol) == set()


def test_an_honest_robust_network_passes(robust: nn.Module, digits: dict[str, Images], protocol: Protocol) -> None:
    metrics = evaluate(robust, digits["test"], protocol, seed=0)
    assert metrics["worst_case"]["robust"] > 25  # there is something to be wrong about
    assert [item["check"] for item in metrics["checklist"] if not item["passed"]] == []


@pytest.mark.parametrize(
    ("mask", "caught"),
    [
        (Saturated, {"gradients-exist", "white-box-beats-gradient-free", "large-eps-breaks"}),
        (Quantised, {"gradients-exist", "white-box-beats-gradient-free"}),
        (Randomised, {"deterministic"}),
        (Backwards, {"white-box-beats-gradient-free", "large-eps-breaks"}),
        (Homely, {"iterative-beats-single-step", "white-box-beats-gradient-free", "large-eps-breaks"}),
    ],
)
def test_a_network_that_misleads_the_attack_is_caught(
    honest: nn.Module, digits: dict[str, Images], protocol: Protocol, mask: type[Saturated], caught: set[str]
) -> None:
    assert caught <= failed(mask(honest), digits["test"], protocol)


def test_noise_that_does_more_than_the_attack_is_caught(
    honest: nn.Module, digits: dict[str, Images], protocol: Protocol
) -> None:
    wide = protocol.model_copy(update={"eps": 0.5})  # enough for noise to break images
    assert "white-box-beats-noise" in failed(Backwards(honest), digits["test"], wide)
    assert "white-box-beats-noise" not in failed(honest, digits["test"], wide)


def test_an_attack_that_leaves_its_ball_or_the_image_range_is_caught(
    trained: nn.Module, digits: dict[str, Images], protocol: Protocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = Images(*(part[:8] for part in digits["test"]))
    honest = checklist.inputs_in_range(trained, few, protocol, seed=0)
    assert honest["passed"]
    assert honest["figures"]["distance"] == pytest.approx(protocol.eps, abs=1e-6)

    def escaping(**settings: Any) -> Any:
        return lambda model, x, y: x + 1.01 * settings["eps"]

    monkeypatch.setattr(checklist, "pgd_attack", escaping)
    caught = checklist.inputs_in_range(trained, few, protocol, seed=0)
    assert not caught["passed"]
    assert caught["figures"]["highest"] > 1


# ---- how much is too much


@pytest.mark.parametrize(("n", "images"), [(1, 1), (40, 1), (200, 1), (360, 1), (500, 2), (1000, 4), (10000, 49)])
def test_one_image_or_less_than_half_a_point_is_luck(n: int, images: int) -> None:
    assert slack(n) == images
    assert images == 1 or images / n < 0.005


@pytest.mark.parametrize("behind", [0, 1, 2])
def test_strength_is_compared_on_the_images_that_both_saw(behind: int) -> None:
    strong, weak = torch.zeros(100, dtype=torch.bool), torch.zeros(50, dtype=torch.bool)
    strong[:behind] = True
    strong[50:] = True  # not seen by the weak attack
    item = at_least_as_strong("x", ("strong", strong), ("weak", weak))
    assert item["passed"] == (behind <= 1)
    assert item["figures"] == {"strong": 2.0 * behind, "weak": 0.0, "examples": 50}


@pytest.mark.parametrize(
    ("doubled", "passed"), [(70.0, True), (69.0, True), (71.0, True), (68.0, False), (72.0, False)]
)
def test_the_steps_suffice_when_twice_as_many_change_one_image_of_a_hundred(doubled: float, passed: bool) -> None:
    curve = [[1, 90.0], [10, 70.0], [20, doubled]]
    assert steps_suffice(curve, steps=10, n=100)["passed"] == passed


@pytest.mark.parametrize(("left", "passed"), [(0.0, True), (1.0, True), (2.0, False)])
def test_a_large_eps_has_to_break_all_but_one_image_of_a_hundred(left: float, passed: bool) -> None:
    assert large_eps_breaks([[0.0, 99.0], [1.0, left]], n=100)["passed"] == passed


def test_no_setting_switches_a_check_off(root: Path) -> None:
    evaluation = params.load(root / "params.yaml", "digits").evaluate
    least = {name: 50 for name in ("strong", "fgsm", "noise", "square", "curves", "transfer")}
    type(evaluation).model_validate(evaluation.model_dump() | least | {"autoattack": 0})
    for name in least:
        with pytest.raises(ValueError, match=f"{name}\n.*greater than or equal to 50"):
            type(evaluation).model_validate(evaluation.model_dump() | {name: 49})


@pytest.mark.parametrize("passed", [True, False])
def test_a_check_from_elsewhere_joins_the_list_and_the_mark(passed: bool) -> None:
    metrics = {"clean": 1.0, "checklist": [{"check": "a", "passed": True}], "masked_gradients": False}
    joined = added(metrics, {"check": "b", "passed": passed})
    assert [item["check"] for item in joined["checklist"]] == ["a", "b"]
    assert joined["masked_gradients"] == (not passed)
    assert len(metrics["checklist"]) == 1  # type: ignore[arg-type]
