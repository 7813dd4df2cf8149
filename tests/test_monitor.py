"""The end of an epoch: what is measured is what it says, and the weights of the best and the middle epoch are kept."""

from typing import Any

import pytest
import torch

from seladv import train as module
from seladv.accuracy import correct, percent
from seladv.data import Images
from seladv.monitor import best_epoch, finish_epoch
from seladv.run import Run
from seladv.train import train

CPU = torch.device("cpu")
Settings = dict[str, Any]


@pytest.mark.parametrize("arm", ["full", "fgsm"])
def test_the_held_out_images_meet_the_protocols_attack_and_a_single_step(
    settings: Settings, digits: dict[str, Images], arm: str
) -> None:
    run = Run(settings, arm=arm, seed=0, data=digits, device=CPU)
    line = finish_epoch(run)
    assert line["heldout_clean"] == percent(correct(run.model, digits["heldout"]))
    x, y = digits["heldout"].batch(torch.arange(len(digits["heldout"].labels)))
    model = run.model.eval()
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(torch.nn.functional.cross_entropy(model(x), y), x)
    x_adv = (x + settings["eps"] * gradient.sign()).clamp(0, 1)
    assert line["heldout_fgsm"] == percent(model(x_adv).argmax(dim=1) == y)
    assert line["passes"]["monitor"]["input_grad"] == (settings["steps"] + 1) * len(y)


def test_the_best_and_the_middle_epochs_weights_are_kept(
    settings: Settings, digits: dict[str, Images], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, torch.Tensor]] = []

    def spy(run: Run) -> dict[str, Any]:
        seen.append({name: value.clone() for name, value in run.model.state_dict().items()})
        return finish_epoch(run)

    monkeypatch.setattr(module, "finish_epoch", spy)
    run = train(settings | {"epochs": 5, "steps": 1}, arm="clean", seed=0, data=digits, device=CPU)
    for name, epoch in (("middle", 3), ("best", best_epoch(run.history))):
        assert all(torch.equal(value, seen[epoch - 1][key]) for key, value in run.kept[name].items()), name


def test_the_best_epoch_is_the_most_robust_then_the_most_accurate_then_the_first() -> None:
    def history(*pairs: tuple[float, float]) -> list[dict[str, Any]]:
        return [
            {"epoch": n + 1, "heldout_robust": robust, "heldout_clean": clean}
            for n, (robust, clean) in enumerate(pairs)
        ]

    assert best_epoch(history((1, 9), (3, 1), (2, 9))) == 2
    assert best_epoch(history((3, 1), (3, 2), (2, 9))) == 2
    assert best_epoch(history((3, 2), (3, 2))) == 1
