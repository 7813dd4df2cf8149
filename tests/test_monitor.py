"""The end of an epoch: what it measures, and which epochs' weights it keeps."""

from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from seladv.data.images import Images
from seladv.training import train as module
from seladv.training.monitor import best_epoch, correct, finish_epoch, percent
from seladv.training.run import Run
from seladv.training.train import train

CPU = torch.device("cpu")
Settings = dict[str, Any]


@pytest.mark.parametrize("arm", ["full", "fgsm"])
def test_heldout_accuracy(settings: Settings, digits: dict[str, Images], arm: str) -> None:
    run = Run(settings, arm=arm, seed=0, data=digits, device=CPU)
    run.start_epoch()
    line = finish_epoch(run, seconds=1.5)
    assert line["epoch_seconds"] == 1.5
    assert line["heldout_clean"] == percent(correct(run.model, digits["heldout"]))
    x, y = digits["heldout"].batch(torch.arange(len(digits["heldout"].labels)))
    model = run.model.eval()
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(cross_entropy(model(x), y), x)
    x_adv = (x + settings["eps"] * gradient.sign()).clamp(0, 1)
    assert line["heldout_fgsm"] == percent(model(x_adv).argmax(dim=1) == y)
    assert line["passes"]["monitor"]["input_grad"] == (settings["steps"] + 1) * len(y)


def test_best_and_middle_weights_are_kept(
    settings: Settings, digits: dict[str, Images], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, torch.Tensor]] = []

    def spy(run: Run, *, seconds: float) -> dict[str, Any]:
        seen.append({name: value.clone() for name, value in run.model.state_dict().items()})
        return finish_epoch(run, seconds=seconds)

    monkeypatch.setattr(module, "finish_epoch", spy)
    run = train(settings | {"epochs": 5, "steps": 1}, arm="clean", seed=0, data=digits, device=CPU)
    for name, epoch in (("middle", 3), ("best", best_epoch(run.history))):
        assert all(torch.equal(value, seen[epoch - 1][key]) for key, value in run.kept[name].items()), name


@pytest.mark.parametrize(
    ("accuracies", "best"),
    [([(1, 9), (3, 1), (2, 9)], 2), ([(3, 1), (3, 2), (2, 9)], 2), ([(3, 2), (3, 2)], 1)],
    ids=["most robust", "then most accurate", "then first"],
)
def test_best_epoch(accuracies: list[tuple[float, float]], best: int) -> None:
    history = [
        {"epoch": n, "heldout_robust": robust, "heldout_clean": clean}
        for n, (robust, clean) in enumerate(accuracies, 1)
    ]
    assert best_epoch(history) == best
