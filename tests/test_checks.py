"""The checklist and catastrophic overfitting: ordinary networks pass, networks built to mislead an attack fail."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from seladv.data.images import Images
from seladv.evaluation import battery, checks
from seladv.evaluation.checks import at_least_as_strong, detect, large_eps_breaks, slack, steps_suffice
from seladv.evaluation.evaluate import evaluate
from seladv.study import params
from seladv.study.protocol import Protocol
from seladv.training.train import train

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


@pytest.fixture(autouse=True)
def _one_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    """One restart of the long PGD instead of five, to save time."""
    monkeypatch.setattr(battery, "STRONG_RESTARTS", 1)


class Saturated(nn.Module):
    """Logits so large that the softmax is exactly one-hot: in float32 the loss has no gradient."""

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
    """New noise in every pass, in eval mode too."""

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x + 0.2 * torch.randn_like(x))


class Backwards(Saturated):
    """The opposite gradient: an attack that follows it lowers the loss."""

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(backwards(x))


class OffGrid(Saturated):
    """The true gradient on images of 256 grey levels, such as the clean ones, and the opposite one elsewhere."""

    def forward(self, x: Tensor) -> Tensor:
        away = ((255 * x).round() - 255 * x).abs().amax(dim=(1, 2, 3), keepdim=True) > 1e-3
        return self.inner(torch.where(away, backwards(x), x))


def backwards(x: Tensor) -> Tensor:
    """The same values, the opposite gradient."""
    return 2 * x.detach() - x


def failed(model: nn.Module, test: Images, protocol: Protocol) -> set[str]:
    """The names of the failed checks."""
    torch.manual_seed(0)
    listed = evaluate(model, test, protocol, seed=0)["checklist"]
    assert {item["check"] for item in listed} == CHECKS
    return {item["check"] for item in listed if not item["passed"]}


def learnt(arm: str, digits: dict[str, Images], root: Path) -> nn.Module:
    """A network that classifies most of the digits."""
    settings = params.load(root / "params.yaml", "digits").training()
    less = {"epochs": 15, "steps": 5, "step_size": 0.05, "batch_size": 16, "precision": "fp32"}
    return train(settings | less, arm=arm, seed=0, data=digits, device=torch.device("cpu"), report=lambda _: None).model


@pytest.fixture(scope="module")
def ordinary(digits: dict[str, Images], root: Path) -> nn.Module:
    return learnt("clean", digits, root)


@pytest.fixture(scope="module")
def robust(digits: dict[str, Images], root: Path) -> nn.Module:
    return learnt("full", digits, root)


def test_ordinary_network(ordinary: nn.Module, digits: dict[str, Images], protocol: Protocol) -> None:
    assert failed(ordinary, digits["test"], protocol) == set()


def test_robust_network(robust: nn.Module, digits: dict[str, Images], protocol: Protocol) -> None:
    metrics = evaluate(robust, digits["test"], protocol, seed=0)
    assert metrics["worst_case"]["robust"] > 25  # the attacks leave enough images for a check to fail
    assert [item["check"] for item in metrics["checklist"] if not item["passed"]] == []


@pytest.mark.parametrize(
    ("mask", "caught"),
    [
        (Saturated, {"gradients-exist", "white-box-beats-gradient-free", "large-eps-breaks"}),
        (Quantised, {"gradients-exist", "white-box-beats-gradient-free"}),
        (Randomised, {"deterministic"}),
        (Backwards, {"white-box-beats-gradient-free", "large-eps-breaks"}),
        (OffGrid, {"iterative-beats-single-step", "white-box-beats-gradient-free", "large-eps-breaks"}),
    ],
)
def test_misleading_network(
    ordinary: nn.Module, digits: dict[str, Images], protocol: Protocol, mask: type[Saturated], caught: set[str]
) -> None:
    assert caught <= failed(mask(ordinary), digits["test"], protocol)


def test_noise_beats_the_attack(ordinary: nn.Module, digits: dict[str, Images], protocol: Protocol) -> None:
    wide = protocol.model_copy(update={"eps": 0.5})  # enough for noise to break images
    assert "white-box-beats-noise" in failed(Backwards(ordinary), digits["test"], wide)
    assert "white-box-beats-noise" not in failed(ordinary, digits["test"], wide)


def test_attack_out_of_range(
    trained: nn.Module, digits: dict[str, Images], protocol: Protocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = Images(*(part[:8] for part in digits["test"]))
    inside = checks.inputs_in_range(trained, few, protocol, seed=0)
    assert inside["passed"]
    assert inside["figures"]["distance"] == pytest.approx(protocol.eps, abs=1e-6)

    def escaping(**settings: Any) -> Any:
        return lambda model, x, y: x + 1.01 * settings["eps"]

    monkeypatch.setattr(checks, "pgd_attack", escaping)
    outside = checks.inputs_in_range(trained, few, protocol, seed=0)
    assert not outside["passed"]
    assert outside["figures"]["highest"] > 1


# ---- thresholds


@pytest.mark.parametrize(("n", "images"), [(1, 1), (40, 1), (200, 1), (360, 1), (500, 2), (1000, 4), (10000, 49)])
def test_slack(n: int, images: int) -> None:
    assert slack(n) == images
    assert images == 1 or images / n < 0.005


@pytest.mark.parametrize("behind", [0, 1, 2])
def test_at_least_as_strong(behind: int) -> None:
    strong, weak = torch.zeros(100, dtype=torch.bool), torch.zeros(50, dtype=torch.bool)
    strong[:behind] = True
    strong[50:] = True  # not seen by the weak attack
    item = at_least_as_strong("x", ("strong", strong), ("weak", weak))
    assert item["passed"] == (behind <= 1)
    assert item["figures"] == {"strong": 2.0 * behind, "weak": 0.0, "examples": 50}


@pytest.mark.parametrize(
    ("doubled", "passed"), [(70.0, True), (69.0, True), (71.0, True), (68.0, False), (72.0, False)]
)
def test_steps_suffice(doubled: float, passed: bool) -> None:
    curve = [[1, 90.0], [10, 70.0], [20, doubled]]
    assert steps_suffice(curve, steps=10, n=100)["passed"] == passed


@pytest.mark.parametrize(("left", "passed"), [(0.0, True), (1.0, True), (2.0, False)])
def test_large_eps_breaks(left: float, passed: bool) -> None:
    assert large_eps_breaks([[0.0, 99.0], [1.0, left]], n=100)["passed"] == passed


def test_no_setting_skips_a_check(root: Path) -> None:
    evaluation = params.load(root / "params.yaml", "digits").evaluate
    least = {name: 50 for name in ("strong", "fgsm", "noise", "square", "curves", "transfer")}
    type(evaluation).model_validate(evaluation.model_dump() | least | {"autoattack": 0})
    for name in least:
        with pytest.raises(ValueError, match=f"{name}\n.*greater than or equal to 50"):
            type(evaluation).model_validate(evaluation.model_dump() | {name: 49})


# ---- catastrophic overfitting


def history(fgsm: list[float | None], pgd: list[float]) -> list[dict[str, Any]]:
    lines = zip(fgsm, pgd, strict=True)
    return [
        {"epoch": epoch, "heldout_robust": robust} | ({} if single is None else {"heldout_fgsm": single})
        for epoch, (single, robust) in enumerate(lines, start=1)
    ]


@pytest.mark.parametrize(
    ("fgsm", "pgd", "epoch", "widest"),
    [
        ([40, 50, 55, 90, 95, 96], [35, 43, 46, 12, 1, 0], 4, 96),
        ([40, 50, 60, 62, 80], [35, 44, 50, 40, 10], 4, 70),  # over two epochs
        ([40, 50, 90, 52, 53], [35, 44, 10, 45, 46], 3, 80),  # training recovers
        ([None, 50, None, 90], [35, 44, 30, 5], 4, 85),  # some epochs measured no FGSM
    ],
)
def test_overfitting(fgsm: list[float | None], pgd: list[float], epoch: int, widest: float) -> None:
    assert detect(history(fgsm, pgd)) == (True, epoch, widest)


@pytest.mark.parametrize(
    ("fgsm", "pgd"),
    [
        ([30, 45, 52, 55, 57], [27, 40, 46, 48, 49]),  # healthy training
        ([20, 45, 60, 70], [18, 25, 38, 47]),  # a young network: better against one step first, PGD still rising
        ([55 + 0.5 * e for e in range(60)], [50 - 0.2 * e for e in range(60)]),  # robust overfitting: slow
        ([60, 45, 62, 44, 61], [50, 36, 51, 35, 52]),  # noise that moves both
        ([60], [0]),
        ([], []),
    ],
)
def test_no_overfitting(fgsm: list[float | None], pgd: list[float]) -> None:
    found = detect(history(fgsm, pgd))
    assert (found.happened, found.epoch) == (False, None)


def test_overfitting_without_fgsm() -> None:
    assert detect(history([None, None, None], [40, 45, 2])) == (False, None, None)


def test_overfitting_jump() -> None:
    found = partial(detect, history([50, 52], [45, 40]))  # the gap widens from 5 to 12
    assert found(jump=6.9).epoch == 2
    assert not found(jump=7.1).happened
