"""The end of an epoch: accuracy on held-out training images, and which weights are worth keeping."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from seladv.attack import eval_mode, pgd
from seladv.data.images import Images, stream
from seladv.training import cost
from seladv.training.run import Run

Attack = Callable[[nn.Module, Tensor, Tensor], Tensor]


def correct(model: nn.Module, data: Images, *, attack: Attack | None = None, batch_size: int = 250) -> Tensor:
    """Whether each image is classified correctly [N], bool, on the CPU.

    Args:
        model: evaluated in eval mode and left as it was, in the precision of the surrounding autocast.
        data: the images, taken in their order.
        attack: `attack(model, x, y)` replaces the images first; clean accuracy without.
        batch_size: images per pass; memory is its only effect on a network in eval mode.
    """
    hits = []
    with eval_mode(model):
        for x, y in data.batches(batch_size):
            if attack is not None:
                x = attack(model, x, y)
            with torch.no_grad():
                hits.append(model(x).argmax(dim=1) == y)
    return torch.cat(hits).cpu()


def percent(hits: Tensor) -> float:
    """The share of true entries, in percent."""
    return 100 * hits.double().mean().item()


def finish_epoch(run: Run, *, seconds: float) -> dict[str, Any]:
    """Measure the held-out images, append the epoch's line to the history, and return it.

    Accuracies are percent: clean, under the protocol's PGD whatever the arm trains on, and under FGSM: a gap that opens
    between the two attacks is catastrophic overfitting (Wong et al. 2020). The network of the best epoch by held-out
    robust accuracy (clean accuracy breaks a tie) and that of the middle epoch are kept.
    """
    generator = stream(run.seed, "monitor", run.device)
    eps, step_size, steps = (run.settings[name] for name in ("eps", "step_size", "steps"))

    attacks = {
        "clean": None,
        "robust": partial(pgd, eps=eps, step_size=step_size, steps=steps, generator=generator),
        "fgsm": partial(pgd, eps=eps, step_size=eps, steps=1, start=0),
    }
    with run.clock("monitor"), run.autocast():
        network = run.frozen.refold()
        hits = {name: percent(correct(network, run.heldout, attack=attack)) for name, attack in attacks.items()}
    passes = cost.add(run.passes, cost.monitoring(len(run.heldout.labels), steps=steps))
    selected = run.selected_classes.sum().item()
    line = {
        "epoch": len(run.history) + 1,
        "loss": run.loss / len(run.train.labels),
        **{f"heldout_{name}": value for name, value in hits.items()},
        "selected_classes": [count / selected if selected else 0.0 for count in run.selected_classes.tolist()],
        "never_selected": (run.times_selected == 0).float().mean().item(),
        "passes": passes,
        "seconds": run.clock.take(),
        "epoch_seconds": seconds,
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


def summary(run: Run) -> dict[str, Any]:
    """A finished run's settings, history and cost, as JSON can hold them. Seconds and passes: per epoch, in total."""
    total = {key: run.history[0][key] for key in ("passes", "seconds", "epoch_seconds")}
    for line in run.history[1:]:
        total = cost.add(total, {key: line[key] for key in total})
    return {
        "settings": run.settings,
        "precision": run.precision,
        "best_epoch": best_epoch(run.history),
        "history": run.history,
        "cost": {
            **total,
            "attack_passes": cost.attack_passes(total["passes"]),
            "total_passes": cost.total_passes(total["passes"]),
            "seconds_per_epoch": total["epoch_seconds"] / len(run.history),
            "peak_memory_mb": cost.peak_memory_mb(run.device),
        },
    }
