"""Transfer: examples made on one network, tried on another."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from seladv.data.images import Images, stream
from seladv.evaluation import transfer
from seladv.evaluation.attacks import pgd_attack
from seladv.study import params
from seladv.study.places import StudyError
from seladv.study.protocol import Protocol
from seladv.training.monitor import correct


@pytest.fixture(scope="module")
def protocol(root: Path) -> Protocol:
    study = params.load(root / "params.yaml", "digits")
    return study.model_copy(update={"evaluate": study.evaluate.model_copy(update={"transfer": 40})})


class Masked(nn.Module):
    """The same classes as the inner network, from logits whose softmax has no gradient."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return 1e4 * self.inner(x)


def test_own_attack(trained: nn.Module, network: type, digits: dict[str, Images], protocol: Protocol) -> None:
    found = transfer.outcomes({"a": trained, "b": network().eval()}, digits["test"], protocol, seed=3)
    assert set(found) == {("a", "a"), ("a", "b"), ("b", "a"), ("b", "b")}
    attack = pgd_attack(eps=protocol.eps, step_size=0.03, steps=10, generator=stream(3, "transfer"))
    own = correct(trained, digits["test"]) & correct(trained, digits["test"], attack=attack)
    assert torch.equal(found["a", "a"], own)


def test_masked_gradients(trained: nn.Module, digits: dict[str, Images], protocol: Protocol) -> None:
    found = transfer.outcomes({"ordinary": trained, "masked": Masked(trained)}, digits["test"], protocol, seed=0)
    assert torch.equal(found["ordinary", "ordinary"], found["ordinary", "masked"])  # the classes are the same
    assert transfer.verdict(found, "ordinary")["passed"]
    caught = transfer.verdict(found, "masked")
    assert not caught["passed"]
    assert "ordinary" in caught["reading"]


def test_best_source() -> None:
    right = torch.ones(10, dtype=torch.bool)
    found = {("a", "a"): right, ("b", "a"): right, ("c", "a"): ~right, ("b", "b"): ~right}
    item = transfer.verdict(found, "a")
    assert not item["passed"]
    p = 2 * 0.5**10  # all ten images, the better one of two sources
    assert item["figures"] == {"white-box": 100, "transfer from c": 0, "examples": 10, "sources": 2, "p": p}


@pytest.mark.parametrize(("behind", "passed"), [(1, True), (2, True), (7, True), (8, False), (20, False)])
def test_chance_of_many_sources(behind: int, passed: bool) -> None:
    own = torch.ones(100, dtype=torch.bool)
    beaten = own.clone()
    beaten[:behind] = False
    found = {(f"arm {number}", "a"): own for number in range(11)} | {("best", "a"): beaten, ("a", "a"): own}
    item = transfer.verdict(found, "a")
    assert item["passed"] == passed
    assert item["figures"]["p"] == pytest.approx(min(1, 12 * 0.5**behind))


def test_images_lost_both_ways() -> None:
    own = torch.tensor([True, False] * 20)
    found = {("a", "a"): own, ("b", "a"): ~own}
    assert transfer.verdict(found, "a")["passed"]


def test_one_arm() -> None:
    assert transfer.verdict({("a", "a"): torch.ones(4, dtype=torch.bool)}, "a")["passed"]


def test_report() -> None:
    right = torch.ones(4, dtype=torch.bool)
    pairs = {(source, target): right for source in ("full", "margin-50") for target in ("full", "margin-50")}
    report = json.loads(json.dumps(transfer.report({0: pairs, 7: pairs})))
    assert set(report["checks"]) == {"full-0", "margin-50-0", "full-7", "margin-50-7"}
    assert {item["check"] for item in report["checks"].values()} == {transfer.NAME}
    assert len(report["pairs"]) == 8
    assert report["pairs"][0] == {"source": "full", "target": "full", "seed": 0, "robust": 100, "examples": 4}


def test_too_few_test_images(trained: nn.Module, digits: dict[str, Images], protocol: Protocol) -> None:
    few = Images(*(part[:29] for part in digits["test"]))
    with pytest.raises(StudyError, match=r"^evaluate\.transfer = 40: the test set has 29$"):
        transfer.outcomes({"a": trained}, few, protocol, seed=0)


@pytest.mark.parametrize(("lost", "won", "p"), [(0, 0, 1), (3, 0, 1 / 8), (0, 3, 1), (4, 1, 6 / 32)])
def test_sign_test(lost: int, won: int, p: float) -> None:
    own, other = (torch.tensor([value] * lost + [not value] * won + [True]) for value in (True, False))
    other[-1] = True
    found = {("a", "a"): own, ("b", "a"): other}
    assert transfer.verdict(found, "a")["figures"]["p"] == pytest.approx(p)
