"""The end of an epoch: how good the network is on held-out training images, and which weights are worth keeping."""

from typing import Any

from torch import Tensor, nn

from seladv.accuracy import correct, percent
from seladv.attack import pgd
from seladv.run import Run
from seladv.seeds import stream


def finish_epoch(run: Run) -> dict[str, Any]:
    """Measure the held-out images, append the epoch's line to the history, and return it.

    Accuracies are percent: clean, under the protocol's PGD whatever the arm trains on, and under FGSM: a gap that opens
    between the two attacks is catastrophic overfitting (Wong et al. 2020). The network of the best epoch by held-out
    robust accuracy (clean accuracy decides a draw) and that of the middle epoch are kept.
    """
    generator = stream(run.seed, "monitor", run.device)
    eps, step_size, steps = (run.settings[name] for name in ("eps", "step_size", "steps"))

    def by_pgd(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return pgd(model, x, y, eps=eps, step_size=step_size, steps=steps, generator=generator)

    def by_fgsm(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return pgd(model, x, y, eps=eps, step_size=eps, steps=1, start=0)

    attacks = {"clean": None, "robust": by_pgd, "fgsm": by_fgsm}
    with run.meter("monitor"), run.autocast():
        hits = {name: percent(correct(run.model, run.heldout, attack=attack)) for name, attack in attacks.items()}
    run.spend(0.0)
    selected = run.selected_classes.sum().item()
    line = {
        "epoch": len(run.history) + 1,
        "loss": run.loss.item() / len(run.train.labels),
        **{f"heldout_{name}": value for name, value in hits.items()},
        "selected_classes": [count / selected if selected else 0.0 for count in run.selected_classes.tolist()],
        "never_selected": (run.times_selected == 0).double().mean().item(),
        **run.spent,
    }
    run.history.append(line)
    if best_epoch(run.history) == line["epoch"]:
        run.keep("best")
    if line["epoch"] == -(-run.settings["epochs"] // 2):
        run.keep("middle")
    return line


def best_epoch(history: list[dict[str, Any]]) -> int:
    """The epoch, counted from 1, that `finish_epoch` keeps as the best; of equal ones the first."""
    return max(history, key=lambda line: (line["heldout_robust"], line["heldout_clean"], -line["epoch"]))["epoch"]
