"""The evaluation of a finished network."""

import copy
import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from seladv.attack import pgd
from seladv.data.images import Images, stream
from seladv.evaluation import evaluate as module
from seladv.evaluation.evaluate import checkpoints, evaluate
from seladv.evaluation.outcomes import subset, survivors
from seladv.study import params
from seladv.study.places import StudyError
from seladv.study.protocol import Protocol
from seladv.training.monitor import correct, percent


@pytest.fixture
def protocol(root: Path) -> Protocol:
    study = params.load(root / "params.yaml", "digits")
    return changed(study, subset=8, steps=3)


def changed(protocol: Protocol, **settings: Any) -> Protocol:
    return protocol.model_copy(update={"evaluate": protocol.evaluate.model_copy(update=settings)})


def untimed(result: dict[str, Any]) -> dict[str, Any]:
    attacks = {name: {**entry, "seconds": 0} for name, entry in result["attacks"].items()}
    return {**result, "attacks": attacks, "evaluation": {**result["evaluation"], "seconds": 0}}


def test_attacks_lower_accuracy(trained: nn.Module, digits: dict[str, Images], protocol: Protocol) -> None:
    result = evaluate(trained, digits["test"], protocol, seed=0)
    assert 100 >= result["clean"] > result["robust"] >= 0


def test_repeatable(trained: nn.Module, digits: dict[str, Images], protocol: Protocol) -> None:
    first = evaluate(trained, digits["test"], protocol, seed=0)
    assert json.loads(json.dumps(first, allow_nan=False)) == first
    torch.rand(5)
    assert untimed(evaluate(trained, digits["test"], protocol, seed=0)) == untimed(first)


def test_same_images_for_every_attack(trained: nn.Module, digits: dict[str, Images], protocol: Protocol) -> None:
    """All attacks but the protocol's PGD see the same images, whatever the others are."""
    chosen = subset(digits["test"].labels, 8)
    first = evaluate(trained, digits["test"], protocol, seed=0)
    assert first["evaluation"]["subset"] == chosen.tolist()
    other = digits["test"].images.clone()
    other[[index for index in range(40) if index not in chosen]] = 0
    again = evaluate(trained, Images(other, digits["test"].labels), protocol, seed=0)
    for name in ("pgd-strong", "fgsm", "noise"):
        assert again["attacks"][name] | {"seconds": 0} == first["attacks"][name] | {"seconds": 0}
    assert again["curves"] == first["curves"]
    assert again["clean"] != first["clean"]


def test_wrong_images_stay_wrong(
    trained: nn.Module, digits: dict[str, Images], protocol: Protocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    with torch.no_grad():
        wrong = (trained(digits["test"].batch(torch.arange(40))[0]).argmax(dim=1) + 1) % 10
    monkeypatch.setattr("seladv.evaluation.evaluate.pgd", lambda model, x, y, **settings: 1 - x)
    helped = correct(trained, Images(255 - digits["test"].images, wrong))
    assert helped.any()  # the stand-in for an attack makes some of them right
    result = evaluate(trained, Images(digits["test"].images, wrong), protocol, seed=0)
    assert (result["clean"], result["robust"]) == (0, 0)


@pytest.mark.parametrize("batch_size", [1, 7, 40, 250])
def test_batch_size(trained: nn.Module, digits: dict[str, Images], batch_size: int) -> None:
    assert torch.equal(correct(trained, digits["test"], batch_size=batch_size), correct(trained, digits["test"]))


def test_percent() -> None:
    assert percent(torch.tensor([True, False, False, False])) == 25


def test_pgd_of_the_paper(trained: nn.Module, digits: dict[str, Images], protocol: Protocol) -> None:
    # A large ball and a small step: the random start decides which images are lost.
    random = changed(protocol, steps=1, step_size=0.01).model_copy(update={"eps": 0.5})
    data, generator = digits["test"], stream(5, "evaluation")

    def attack(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return pgd(model, x, y, eps=0.5, step_size=0.01, steps=1, generator=generator)

    expected = correct(trained, data) & correct(trained, data, attack=attack)
    result = evaluate(trained, digits["test"], random, seed=5)
    assert result["robust"] == result["attacks"]["pgd"]["robust"] == percent(expected)
    assert torch.equal(survivors(result["attacks"]["pgd"]), expected)


def test_outcomes(trained: nn.Module, digits: dict[str, Images], protocol: Protocol) -> None:
    result = evaluate(trained, digits["test"], protocol, seed=0)
    counts = {"clean": 40, "pgd": 40, "pgd-strong": 8, "fgsm": 8, "noise": 8}
    assert {name: entry["examples"] for name, entry in result["attacks"].items()} == counts
    hits = {name: survivors(entry) for name, entry in result["attacks"].items()}
    few = hits["clean"][result["evaluation"]["subset"]]
    for name, entry in result["attacks"].items():
        assert entry["robust"] == percent(hits[name])
        assert not (hits[name] & ~(hits["clean"] if name == "pgd" else few if counts[name] == 8 else hits[name])).any()
    assert result["clean"] == percent(hits["clean"])


def test_resume(
    trained: nn.Module, digits: dict[str, Images], protocol: Protocol, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = tmp_path / "state" / "attacks.json"
    whole = evaluate(trained, digits["test"], protocol, seed=0)
    started: list[str] = []

    def watched(name: str, attack: Callable[[module.Case], module.Outcome]) -> Callable[..., module.Outcome]:
        def run(case: module.Case) -> module.Outcome:
            started.append(name)
            if name == "fgsm" and started.count(name) == 1:
                raise KeyboardInterrupt
            return attack(case)

        return run

    for group in ("ON_ALL", "ON_SUBSET"):
        watching = {name: watched(name, attack) for name, attack in getattr(module, group).items()}
        monkeypatch.setattr(module, group, watching)
    with pytest.raises(KeyboardInterrupt):
        evaluate(trained, digits["test"], protocol, seed=0, saved=saved)
    resumed = evaluate(trained, digits["test"], protocol, seed=0, saved=saved)
    assert started == ["clean", "pgd", "pgd-strong", "fgsm", "fgsm", "noise"]
    assert untimed(resumed) == untimed(whole)


def test_too_few_test_images(trained: nn.Module, digits: dict[str, Images], protocol: Protocol) -> None:
    with pytest.raises(StudyError, match=r"^evaluate\.subset = 41: the test set has 40 images$"):
        evaluate(trained, digits["test"], changed(protocol, subset=41), seed=0)


@pytest.mark.parametrize("allowed", [True, False])
def test_no_tf32(trained: nn.Module, digits: dict[str, Images], protocol: Protocol, allowed: bool) -> None:
    backends = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [backend.allow_tf32 for backend in backends]
    seen: set[bool] = set()

    class Watching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.update(backend.allow_tf32 for backend in backends)
            return trained(x)

    try:
        for backend in backends:
            backend.allow_tf32 = allowed
        evaluate(Watching(), digits["test"], protocol, seed=0)
        assert seen == {False}
        assert [backend.allow_tf32 for backend in backends] == [allowed, allowed]
    finally:
        for backend, value in zip(backends, before, strict=True):
            backend.allow_tf32 = value


def test_checkpoints(trained: nn.Module, digits: dict[str, Images], protocol: Protocol) -> None:
    protocol = protocol.model_copy(update={"headline": "last"})
    worse = copy.deepcopy(trained)
    with torch.no_grad():
        for weights in worse.parameters():
            weights.mul_(0.5)
    result = evaluate(worse, digits["test"], protocol, seed=0)
    given = {"clean": -1.0, "robust": -2.0}  # copied, not measured again
    networks = {"last": trained, "best": copy.deepcopy(trained), "middle": worse}
    several = checkpoints(networks, digits["test"], protocol, seed=0, headline=given)
    assert several == {
        "last": given,
        "best": given,
        "middle": {name: pytest.approx(result[name]) for name in given},
    }


# ---- curves


@pytest.fixture
def case(trained: nn.Module, digits: dict[str, Images], protocol: Protocol) -> module.Case:
    return module.Case(trained, digits["test"], correct(trained, digits["test"]), changed(protocol, steps=40), 0)


@pytest.mark.parametrize(
    ("steps", "counts"),
    [(1, [1, 2]), (3, [1, 2, 3, 5, 6]), (10, [1, 2, 5, 10, 20]), (40, [1, 2, 5, 10, 20, 40, 80]),
     (50, [1, 2, 5, 10, 20, 40, 50, 80, 100])],
)  # fmt: skip
def test_step_counts(steps: int, counts: list[int]) -> None:
    assert module.step_counts(steps) == counts


def test_against_eps(case: module.Case) -> None:
    curve = module.against_eps(case)
    eps, robust = ([point[name] for point in curve] for name in ("eps", "robust"))
    assert (eps[0], robust[0]) == (0, percent(case.clean))
    assert eps == sorted(set(eps))
    assert case.protocol.eps in eps
    assert robust[-1] == 0
    assert all(later <= earlier + 2.5 for earlier, later in pairwise(robust))  # one image of 40
    assert all(percent(survivors(point)) == point["robust"] for point in curve)


def test_against_eps_without_success(case: module.Case) -> None:
    class Stubborn(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.eye(10)[0] + x.flatten(1) @ torch.zeros(64, 10)

    data = Images(case.data.images, torch.zeros_like(case.data.labels))
    curve = module.against_eps(case._replace(model=Stubborn(), data=data, clean=torch.ones(40, dtype=torch.bool)))
    assert (curve[-1]["eps"], curve[-1]["robust"]) == (1.0, 100.0)


def test_few_short_steps_still_break_at_a_large_eps(case: module.Case) -> None:
    slow = case._replace(protocol=changed(case.protocol, steps=4, step_size=0.001))
    assert module.against_eps(slow)[-1]["robust"] == 0


def test_points_are_independent(case: module.Case) -> None:
    whole = {point["steps"]: point for point in module.against_steps(case)}
    assert whole[5] == module.point(case, eps=case.protocol.eps, step_size=0.03, steps=5)


def test_zero_gradients(case: module.Case) -> None:
    class Flat(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return case.model((x > 0.5) * x.detach() + 0 * x)

    assert module.zero_gradients(case) == 0
    assert module.zero_gradients(case._replace(model=Flat())) == 40
