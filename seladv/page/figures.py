"""The figures of the results page: embedded, each with what it shows in words, for who cannot see it."""

import re
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean, median
from urllib.parse import quote

from seladv.page.data import Row, Study
from seladv.page.html import Raw, box, element, image
from seladv.results import Metrics

MOST = 8  # arms that a sentence can hold
Words = Callable[[Metrics], str]


def figure(study: Study, path: Path) -> Raw:
    """The figure in `path` with its caption; the file's name alone tells what it is."""
    title, words = ABOUT.get(path.stem, (path.stem.replace("-", " ").capitalize(), lambda _: "see the tables."))
    shown = {arm: runs for arm, runs in study.metrics.items() if runs}
    return embedded(study, path, title, words(shown))


def embedded(study: Study, path: Path, title: str, words: str) -> Raw:
    """The picture in `path` under its title; `words` say what it shows."""
    drawn = image(_source(path), f"{title}, {study.name}: {words}")
    return Raw("\n" + element("figure", element("figcaption", title), box(f"{study.name}: {title}", drawn)))


def _source(path: Path) -> str:
    """The file as an address. Of a drawing, hundredths of a point are enough, and its text needs no base64."""
    if path.suffix == ".svg":
        drawing = re.sub(r"(\.\d\d)\d+", r"\1", path.read_text())
        return f"data:image/svg+xml,{quote(' '.join(drawing.split()), safe=' =:/;,@!$*+?[]{}|^')}"
    return f"data:image/png;base64,{b64encode(path.read_bytes()).decode()}"


def listed(values: Mapping[str, str]) -> str:
    """`arm value, arm value, ...`, no more than a listener can bear."""
    said = [f"{arm} {value}" for arm, value in list(values.items())[:MOST]]
    more = len(values) - MOST
    return "; ".join([*said, *([f"and {more} more arms, in the tables"] if more > 0 else [])]) + "."


def _mean(runs: Sequence[Row], value: Callable[[Row], float]) -> float:
    return mean(map(value, runs))


def _accuracy(metrics: Metrics) -> str:
    return "clean and robust test accuracy, every seed a point and the mean a bar. Means: " + listed(
        {
            arm: f"{_mean(runs, lambda r: r['clean']):.1f} % clean, {_mean(runs, lambda r: r['robust']):.1f} % robust"
            for arm, runs in metrics.items()
        }
    )


def _passes(run: Row) -> float:
    return float(run["training"]["cost"]["total_passes"])


def _last(name: str) -> Callable[[Row], float]:
    return lambda run: float(run["training"]["history"][-1][name])


def _cost(metrics: Metrics) -> str:
    unit = _mean(metrics["full"], _passes) / 100 if "full" in metrics else 1e6
    of = "% of full's passes" if "full" in metrics else "million passes"
    return "robust test accuracy above the total cost, every seed a point. Means: " + listed(
        {
            arm: f"{_mean(runs, lambda r: r['robust']):.1f} % at {_mean(runs, _passes) / unit:.0f} {of}"
            for arm, runs in metrics.items()
        }
    )


def _budget(metrics: Metrics) -> str:
    attacked = {arm: runs for arm, runs in metrics.items() if arm != "clean"}
    return "held-out robust accuracy after every epoch, above everything spent so far. At the end: " + listed(
        {
            arm: f"{_mean(runs, _last('heldout_robust')):.1f} % after {_mean(runs, _passes) / 1e6:.3g} million passes"
            for arm, runs in attacked.items()
        }
    )


def _curves(metrics: Metrics) -> str:
    return "training loss, clean and robust held-out accuracy after every epoch. In the last one: " + listed(
        {
            arm: f"loss {_mean(runs, _last('loss')):.2f}, {_mean(runs, _last('heldout_clean')):.1f} % clean, "
            f"{_mean(runs, _last('heldout_robust')):.1f} % robust"
            for arm, runs in metrics.items()
        }
    )


def _split(metrics: Metrics) -> str:
    def share(phase: str) -> Callable[[Row], float]:
        return lambda run: 100 * median(e["seconds"][phase] / e["epoch_seconds"] for e in run["training"]["history"])

    return "seconds of the median epoch, split into phases. Shares of the epoch: " + listed(
        {
            arm: ", ".join(f"{phase} {_mean(runs, share(phase)):.0f} %" for phase in ("scoring", "attack", "update"))
            for arm, runs in metrics.items()
        }
    )


def _classes(metrics: Metrics) -> str:
    def most(runs: Sequence[Row]) -> str:
        shares = [mean(column) for column in zip(*(_last_classes(run) for run in runs), strict=True)]
        return f"class {shares.index(max(shares))} with {100 * max(shares):.0f} %"

    chosen = {arm: runs for arm, runs in metrics.items() if arm not in ("clean", "full")}
    return "share of each class among the attacked samples by epoch. The largest in the last one: " + listed(
        {arm: most(runs) for arm, runs in chosen.items()}
    )


def _last_classes(run: Row) -> list[float]:
    return run["training"]["history"][-1]["selected_classes"]


ABOUT: dict[str, tuple[str, Words]] = {
    "accuracy": ("Accuracy of each arm", _accuracy),
    "robust-against-cost": ("What robustness costs", _cost),
    "robust-against-budget": ("Is the gain more than speed?", _budget),
    "training-curves": ("Training curves", _curves),
    "cost-split": ("Where the time goes", _split),
    "selected-classes": ("Which classes are attacked", _classes),
}
