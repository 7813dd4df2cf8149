"""What a table shows beside the agreed columns: more networks and attacks where they ran, and marks of doubt."""

from collections.abc import Callable, Mapping, Sequence
from statistics import mean
from typing import Any

from seladv.overfitting import detect

Find = Callable[[Any], Any]
MORE: dict[str, Find] = {  # columns from a run's metrics, shown where at least one run has them
    "robust, last, %": lambda run: run.get("checkpoints", {}).get("last"),
    "robust, best, %": lambda run: run.get("checkpoints", {}).get("best"),
    "AutoAttack, %": lambda run: run.get("attacks", {}).get("autoattack"),
    "worst case, %": lambda run: run.get("worst_case"),
}
MORE_READING = (
    " Last and best: the networks of the last epoch and of the best one on held-out images. AutoAttack and the worst "
    "case (an image counts that is right under every attack that all seeds faced) are taken on fewer images, and "
    "AutoAttack for some seeds only: its column is the mean over those."
)


def unattacked(metrics: Mapping[str, Sequence[dict[str, Any]]], headline: str) -> str:
    """A sentence for each arm that attacks nothing, where tables show the best epoch: an early one, by robustness."""
    found = ""
    for arm, runs in metrics.items():
        last = [run["checkpoints"]["last"] for run in runs if "checkpoints" in run]
        if headline == "best" and last and not runs[0]["training"]["cost"]["attack_passes"]:
            clean, robust = (mean(each[name] for each in last) for name in ("clean", "robust"))
            found += (
                f" `{arm}` attacks nothing, so its epoch of the highest robust accuracy, shown here as its best, "
                f"is an early one: its last network is right on {clean:.1f} % clean and {robust:.1f} % attacked."
            )
    return found


def overfitted(run: dict[str, Any]) -> bool:
    """Catastrophic overfitting at some epoch; `clean`, which attacks nothing, has none to speak of."""
    return run["training"]["cost"]["attack_passes"] > 0 and detect(run["training"]["history"]).happened


MARKS: dict[str, Find] = {
    "masked gradients?": lambda run: run.get("masked_gradients"),  # the evaluation's checklist failed
    "catastrophic overfitting": overfitted,
}


def marked(arm: str, runs: Sequence[dict[str, Any]]) -> str:
    """The arm's name, with what makes its numbers doubtful and the seeds that it happened to."""
    seeds = {mark: [str(run["seed"]) for run in runs if found(run)] for mark, found in MARKS.items()}
    return "".join([arm, *(f" ({mark} seed {', '.join(which)})" for mark, which in seeds.items() if which)])
