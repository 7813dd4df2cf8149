"""Transfer: examples made on one network, tried on another. What follows from them is in test_marks."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from seladv.attack import pgd
from seladv.data.images import Images, stream
from seladv.evaluation import transfer
from seladv.evaluation.outcomes import subset, survivors
from seladv.study import params
from seladv.study.places import StudyError
from seladv.study.protocol import Protocol
from seladv.training.monitor import correct


@pytest.fixture
def protocol(root: Path) -> Protocol:
    study = params.load(root / "params.yaml", "digits")
    return study.model_copy(update={"evaluate": study.evaluate.model_copy(update={"subset": 30, "steps": 10})})


class Masked(nn.Module):
    """The same logits as the inner network's, with a gradient that is zero."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner(x).detach() + 0 * x.flatten(1).mean(dim=1, keepdim=True)
        return logits


def outcomes(networks: dict[str, nn.Module], test: Images, protocol: Protocol) -> dict[tuple[str, str], Tensor]:
    pairs = transfer.outcomes(networks, test, protocol, seed=3)
    assert json.loads(json.dumps(pairs)) == pairs
    assert {pair["seed"] for pair in pairs} == {3}
    return {(pair["source"], pair["target"]): survivors(pair) for pair in pairs}


def test_own_attack(trained: nn.Module, network: type, digits: dict[str, Images], protocol: Protocol) -> None:
    found = outcomes({"a": trained, "b": network().eval()}, digits["test"], protocol)
    assert set(found) == {("a", "a"), ("a", "b"), ("b", "a"), ("b", "b")}
    few = Images(*(part[subset(digits["test"].labels, 30)] for part in digits["test"]))
    attack = partial(pgd, eps=protocol.eps, step_size=0.03, steps=10, generator=stream(3, "transfer"))
    assert torch.equal(found["a", "a"], correct(trained, few) & correct(trained, few, attack=attack))


@pytest.mark.filterwarnings("ignore:pgd. the loss's gradient is zero")
def test_masked_gradients(trained: nn.Module, digits: dict[str, Images], protocol: Protocol) -> None:
    found = outcomes({"ordinary": trained, "masked": Masked(trained)}, digits["test"], protocol)
    assert torch.equal(found["ordinary", "ordinary"], found["ordinary", "masked"])  # the classes are the same
    assert found["masked", "masked"].sum() >= found["ordinary", "masked"].sum() + 5


def test_too_few_test_images(trained: nn.Module, digits: dict[str, Images], protocol: Protocol) -> None:
    few = Images(*(part[:29] for part in digits["test"]))
    with pytest.raises(StudyError, match=r"^evaluate\.subset = 30: the test set has 29 images$"):
        transfer.outcomes({"a": trained}, few, protocol, seed=0)
