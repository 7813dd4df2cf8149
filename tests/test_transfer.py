"""Transfer: examples of one network on another."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from seladv import params, transfer
from seladv.accuracy import correct
from seladv.attacks import pgd_attack
from seladv.data import Images
from seladv.params import Protocol
from seladv.seeds import stream


@pytest.fixture(scope="module")
def protocol(root: Path) -> Protocol:
    study = params.load(root / "params.yaml", "digits")
    return study.model_copy(update={"evaluate": study.evaluate.model_copy(update={"transfer": 40})})


class Masked(nn.Module):
    """The same classes as the inner network, from logits whose softmax leaves no gradient."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return 1e4 * self.inner(x)


def test_the_diagonal_is_the_networks_own_attack(
    trained: nn.Module, network: type, digits: dict[str, Images], protocol: Protocol
) -> None:
    found = transfer.outcomes({"a": trained, "b": network().eval()}, digits["test"], protocol, seed=3)
    assert set(found) == {("a", "a"), ("a", "b"), ("b", "a"), ("b", "b")}
    attack = pgd_attack(eps=protocol.eps, step_size=0.03, steps=10, generator=stream(3, "transfer"))
    own = correct(trained, digits["test"]) & correct(trained, digits["test"], attack=attack)
    assert torch.equal(found["a", "a"], own)


def test_a_network_that_hides_its_gradients_is_beaten_by_transfer(
    trained: nn.Module, digits: dict[str, Images], protocol: Protocol
) -> None:
    found = transfer.outcomes({"honest": trained, "masked": Masked(trained)}, digits["test"], protocol, seed=0)
    assert torch.equal(found["honest", "honest"], found["honest", "masked"])  # the classes are the same
    assert transfer.verdict(found, "honest")["passed"]
    caught = transfer.verdict(found, "masked")
    assert not caught["passed"]
    assert "honest" in caught["reading"]


def test_the_most_successful_source_counts() -> None:
    right = torch.ones(10, dtype=torch.bool)
    found = {("a", "a"): right, ("b", "a"): right, ("c", "a"): ~right, ("b", "b"): ~right}
    item = transfer.verdict(found, "a")
    assert not item["passed"]
    p = 2 * 0.5**10  # all ten images, the better one of two sources
    assert item["figures"] == {"white-box": 100, "transfer from c": 0, "examples": 10, "sources": 2, "p": p}


@pytest.mark.parametrize(("behind", "passed"), [(1, True), (2, True), (7, True), (8, False), (20, False)])
def test_the_best_of_many_sources_may_be_ahead_by_chance_and_no_further(behind: int, passed: bool) -> None:
    own = torch.ones(100, dtype=torch.bool)
    beaten = own.clone()
    beaten[:behind] = False
    found = {(f"arm {number}", "a"): own for number in range(11)} | {("best", "a"): beaten, ("a", "a"): own}
    item = transfer.verdict(found, "a")
    assert item["passed"] == passed
    assert item["figures"]["p"] == pytest.approx(min(1, 12 * 0.5**behind))


def test_images_lost_both_ways_are_no_defeat() -> None:
    own = torch.tensor([True, False] * 20)
    found = {("a", "a"): own, ("b", "a"): ~own}
    assert transfer.verdict(found, "a")["passed"]


def test_one_arm_alone_has_nothing_to_fear() -> None:
    assert transfer.verdict({("a", "a"): torch.ones(4, dtype=torch.bool)}, "a")["passed"]


def test_the_report_names_checks_as_the_metrics_files_are_named() -> None:
    right = torch.ones(4, dtype=torch.bool)
    pairs = {(source, target): right for source in ("full", "margin-50") for target in ("full", "margin-50")}
    report = json.loads(json.dumps(transfer.report({0: pairs, 7: pairs})))
    assert set(report["checks"]) == {"full-0", "margin-50-0", "full-7", "margin-50-7"}
    assert {item["check"] for item in report["checks"].values()} == {transfer.NAME}
    assert len(report["pairs"]) == 8
    assert report["pairs"][0] == {"source": "full", "target": "full", "seed": 0, "robust": 100, "examples": 4}


def test_more_examples_than_there_are_is_refused(
    trained: nn.Module, digits: dict[str, Images], protocol: Protocol
) -> None:
    few = Images(*(part[:29] for part in digits["test"]))
    with pytest.raises(ValueError, match=r"^evaluate\.transfer = 40: the test set has 29$"):
        transfer.outcomes({"a": trained}, few, protocol, seed=0)
