"""The marks: networks that are built to deserve each get it, and those that deserve none get none."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from seladv.data.images import Images
from seladv.evaluation import evaluate
from seladv.evaluation.attacks import entry
from seladv.evaluation.autoattack import autoattack
from seladv.report import marks
from seladv.report.marks import MISLED, NOT_CONVERGED, OVERSTATES, Mark, detect
from seladv.study import params
from seladv.study.places import StudyError
from seladv.study.protocol import Protocol
from seladv.training.train import train

EPS = 0.1
IMAGES = 60


@pytest.fixture(scope="module")
def protocol(root: Path) -> Protocol:
    study = params.load(root / "params.yaml", "digits")
    less = {"subset": IMAGES, "steps": 10, "step_size": EPS / 4}
    return study.model_copy(update={"eps": EPS, "evaluate": study.evaluate.model_copy(update=less)})


@pytest.fixture(autouse=True)
def _one_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "STRONG_RESTARTS", 1)


def measured(model: nn.Module, data: Images, protocol: Protocol, *, queries: int = 1000) -> dict[str, Any]:
    """A run's content, as `table.load` puts it together."""
    result = evaluate.evaluate(model, data, protocol, seed=0)
    auto = autoattack(model, data, eps=protocol.eps, seed=0, queries=queries)
    training = {"cost": {"attack_passes": 1}, "history": []}
    return {"arm": "full", "seed": 0, **result, "autoattack": auto, "training": training}


def names(model: nn.Module, data: Images, protocol: Protocol) -> set[str]:
    return {mark.name for mark in found(measured(model, data, protocol))}


def found(*runs: dict[str, Any], transfer: dict[str, Any] | None = None) -> list[Mark]:
    """The marks of the first of several runs."""
    return marks.find({"full": [run | {"seed": seed} for seed, run in enumerate(runs)]}, transfer)["full", 0]


class Linear(nn.Module):
    """Dark or bright? `change` is what a subclass does to the image first."""

    def change(self, x: Tensor) -> Tensor:
        return x

    def forward(self, x: Tensor) -> Tensor:
        score = 10 * (self.change(x) - 0.5).flatten(1).mean(dim=1)
        return torch.stack([-score, score], dim=1)


class Quantised(Linear):
    """Grey levels far apart: no gradient anywhere."""

    def change(self, x: Tensor) -> Tensor:
        return (8 * x).round() / 8


class Confident(Linear):
    """Logits so large that the softmax is exactly one-hot: in float32 the cross-entropy has no gradient."""

    def forward(self, x: Tensor) -> Tensor:
        return 1e4 * super().forward(x)


def backwards(x: Tensor) -> Tensor:
    """The same values, the opposite gradient."""
    return 2 * x.detach() - x


class Backwards(Linear):
    """The opposite gradient: an attack that follows it lowers the loss."""

    def change(self, x: Tensor) -> Tensor:
        return backwards(x)


class OffGrid(Linear):
    """The true gradient on images of 256 grey levels, such as the clean ones, and the opposite one elsewhere."""

    def change(self, x: Tensor) -> Tensor:
        away = ((255 * x).round() - 255 * x).abs().amax(dim=(1, 2, 3), keepdim=True) > 1e-3
        return torch.where(away, backwards(x), x)


class Decoy(nn.Module):
    """Brighter images raise a wrong class that never wins, darker ones another one that does: the loss misleads."""

    def forward(self, x: Tensor) -> Tensor:
        brighter = (x.flatten(1).mean(dim=1) - 0.5) / EPS
        return torch.stack([0 * brighter, 0.9 * brighter - 1, -4.5 * brighter - 4], dim=1)


@pytest.fixture(scope="module")
def noise() -> Images:
    """Noise from dark to bright, labelled as `Linear` has it; for half of the images eps suffices."""
    brightness = torch.linspace(78, 178, IMAGES).view(-1, 1, 1, 1)
    pixels = brightness + torch.randint(-30, 31, (IMAGES, 1, 8, 8), generator=torch.Generator().manual_seed(1))
    images = pixels.to(torch.uint8)
    return Images(images, Linear()(images / 255).argmax(dim=1))


def test_honest_network(noise: Images, protocol: Protocol) -> None:
    run = measured(Linear(), noise, protocol)
    assert 20 < run["robust"] < 80  # enough images on both sides for a mark
    assert found(run) == []
    assert [found(*[run] * 3, transfer={"subset": run["evaluation"]["subset"], "pairs": []})] == [[]]


def test_confident_network(noise: Images, protocol: Protocol) -> None:
    """PGD is not stalled by it, so nothing is marked but what the AutoAttack package says."""
    run = measured(Confident(), noise, protocol)
    assert run["robust"] == measured(Linear(), noise, protocol)["robust"]
    assert [mark for mark in found(run) if mark.name != marks.WARNS] == []


def test_trained_network(digits: dict[str, Images], settings: dict[str, Any], protocol: Protocol) -> None:
    four = {part: Images(*(each[data.labels < 4] for each in data)) for part, data in digits.items()}
    less = settings | {"epochs": 10, "steps": 5, "eps": EPS, "step_size": EPS / 3, "batch_size": 16}
    model = train(less, arm="full", seed=0, data=four, device=torch.device("cpu"), report=lambda _: None).model
    small = protocol.evaluate.model_copy(update={"subset": len(four["train"].labels), "steps": 20})
    run = measured(model, four["train"], protocol.model_copy(update={"evaluate": small}), queries=100)
    assert 40 < run["robust"] < 99
    assert found(run) == []


def test_too_few_steps(noise: Images, protocol: Protocol) -> None:
    slow = protocol.evaluate.model_copy(update={"steps": 4, "step_size": EPS / 10})
    run = measured(Linear(), noise, protocol.model_copy(update={"evaluate": slow}))
    converged, overstates = found(run)
    assert (converged.name, overstates.name) == (NOT_CONVERGED, OVERSTATES)
    at = {point["steps"]: point["robust"] for point in run["curves"]["steps"]}
    assert converged.figure == f"−{at[4] - at[8]:.1f}"
    assert overstates.figure == f"by {run['robust'] - run['autoattack']['robust']:.1f}"


def test_misleading_loss(protocol: Protocol) -> None:
    grey = Images(torch.full((IMAGES, 1, 8, 8), 128, dtype=torch.uint8), torch.zeros(IMAGES, dtype=torch.long))
    assert found(measured(Decoy(), grey, protocol)) == [Mark(OVERSTATES, "by 100.0")]


@pytest.mark.parametrize(
    ("model", "because"),
    [
        (Quantised(), ["60 of 60 gradients are zero", "Square breaks"]),
        (Backwards(), ["survive eps", "Square breaks"]),
        (OffGrid(), ["FGSM breaks"]),
    ],
)
def test_misled_gradients(noise: Images, protocol: Protocol, model: nn.Module, because: list[str]) -> None:
    figures = [mark.figure for mark in found(measured(model, noise, protocol)) if mark.name == MISLED]
    for reason in because:
        assert any(reason in figure for figure in figures), figures


def test_package_warnings_are_shown(noise: Images, protocol: Protocol) -> None:
    run = measured(Quantised(), noise, protocol)
    shown = [mark.figure for mark in found(run) if mark.name == marks.WARNS]
    assert any(line.startswith("Square Attack has decreased the robust accuracy of") for line in shown)
    assert all(any(line in warning for warning in run["autoattack"]["warnings"]) for line in shown)
    assert not any("\n" in line or "flags_doc" in line for line in shown)


# ---- thresholds, on made-up outcomes


def hits(wrong: int, n: int = 100, *, start: int = 0) -> Tensor:
    """All right but `wrong` images from `start` on."""
    made = torch.ones(n, dtype=torch.bool)
    made[start : start + wrong] = False
    return made


def made(n: int = 100, **attacks: Tensor) -> dict[str, Any]:
    """A run in which every attack breaks nothing, but those given."""
    of = lambda name: entry(attacks.get(name.replace("-", "_"), hits(0, n)))  # noqa: E731
    points = [{"steps": 10, **of("steps")}, {"steps": 20, **of("doubled")}]
    members = {name: of(name) for name in ("apgd-ce", "apgd-t", "fab-t", "square")}
    return {
        "arm": "full", "seed": 0, "robust": of("pgd")["robust"], "zero_gradients": 0,
        "evaluation": {"steps": 10, "subset": list(range(n))},
        "attacks": {name: of(name) for name in ("clean", "pgd", "pgd-strong", "fgsm", "noise")},
        "curves": {"steps": points, "eps": [{"eps": 1.0, "robust": 0.0}]},
        "autoattack": {"members": members, **members["square"], "warnings": []},
        "training": {"cost": {"attack_passes": 1}, "history": []},
    }  # fmt: skip


@pytest.mark.parametrize(("lost", "won", "marked"), [(4, 0, False), (5, 0, True), (7, 1, True), (7, 2, False)])
def test_paired_test_of_the_steps(lost: int, won: int, marked: bool) -> None:
    run = made(steps=hits(won), doubled=hits(lost, start=50))
    assert found(run) == ([Mark(NOT_CONVERGED, f"−{lost - won:.1f}")] if marked else [])


@pytest.mark.parametrize(("n", "lost", "marked"), [(100, 2, False), (100, 3, True), (300, 8, False), (300, 9, True)])
def test_overstated_from_three_points(n: int, lost: int, marked: bool) -> None:
    broken = {name: hits(lost, n) for name in ("fab_t", "square")}
    assert found(made(n, **broken)) == ([Mark(OVERSTATES, f"by {100 * lost / n:.1f}")] if marked else [])


@pytest.mark.parametrize(("runs", "lost", "marked"), [(1, 4, False), (1, 5, True), (20, 8, False), (20, 9, True)])
def test_holm_over_the_runs(runs: int, lost: int, marked: bool) -> None:
    run = made(1000, square=hits(lost, 1000))
    figure = f"Square breaks {lost} of 1000 more"
    assert found(run, *[made(1000)] * (runs - 1)) == ([Mark(MISLED, figure)] if marked else [])


def test_what_every_attack_of_the_white_box_breaks_counts() -> None:
    """A gradient-free attack misleads no gradient where any attack that follows one breaks the image."""
    for name in ("pgd", "pgd_strong", "fgsm", "apgd_ce"):
        later = dict.fromkeys(("apgd_ce", "apgd_t", "fab_t")[(name != "apgd_ce") * 3 :], hits(30))
        run = made(**{"noise": hits(30), "square": hits(30), name: hits(30)} | later)
        figures = [mark.figure for mark in found(run) if mark.name == MISLED]
        assert figures == (["FGSM breaks 30 of 100 more"] if name == "fgsm" else []), name


@pytest.mark.parametrize(("broken", "marked"), [(5, False), (6, True)])
def test_transferred_examples(broken: int, marked: bool) -> None:
    """Of two sources; examples of the network's own do not count."""
    pairs = [
        {"source": source, "target": "full", "seed": 0, **entry(hits(count))}
        for source, count in (("margin-50", broken), ("clean", 0), ("full", 100))
    ]
    expected = [Mark(MISLED, f"transfer from margin-50 breaks {broken} of 100 more")] if marked else []
    assert found(made(), transfer={"subset": list(range(100)), "pairs": pairs}) == expected
    with pytest.raises(StudyError, match=r"^transfer-digits attacked other images than the runs: .*transfer-digits`$"):
        found(made(), transfer={"protocol": "digits", "subset": [1, 2], "pairs": pairs})


def test_zero_gradients_and_a_boundless_attack_need_no_test() -> None:
    run = made() | {"zero_gradients": 1}
    run["curves"]["eps"] = [{"eps": 0.5, "robust": 40.0}, {"eps": 1.0, "robust": 2.0}]
    assert [mark.figure for mark in found(run)] == ["1 of 100 gradients are zero", "2.0 % survive eps = 1"]


@pytest.mark.parametrize("part", ["training", "evaluation", "autoattack"])
def test_uncommitted_code(part: str) -> None:
    run = made()
    run[part]["revision"] = "0123456789ab"
    assert found(run) == []
    run[part]["revision"] += "-dirty"
    assert found(run) == [Mark(marks.UNCOMMITTED)]


def test_small_checks_say_what_they_see() -> None:
    assert marks.resolution({"full": [made(500)]}) == ""
    line = marks.resolution({"full": [made(50)] * 18})
    assert "On 50 images" in line
    assert "from 10.0 points" in line  # five images
    assert "from 18.0 on" in line  # nine


def test_worst_is_over_the_subset() -> None:
    run = made(10, pgd_strong=hits(2, 10), square=hits(1, 10, start=5), noise=hits(1, 10, start=6))
    run["evaluation"]["subset"] = list(range(20, 30))
    run["attacks"]["pgd"] = entry(hits(1, 40, start=28))
    assert marks.worst(run).tolist() == [False, False, True, True, True, False, False, True, False, True]
    assert marks.overstated(run) == pytest.approx(0.0)


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
