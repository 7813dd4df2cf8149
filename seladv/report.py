"""The results table as files: one for programs, one for people."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from seladv.extras import MORE, MORE_READING, marked, unattacked
from seladv.params import Protocol
from seladv.results import COSTS, Metrics
from seladv.stats import mean_and_half_width

NETWORK = {
    "last": "the network of the last epoch",
    "best": "the network of the best epoch on held-out images",
    "average": "the running average of the weights",
}


def to_csv(frame: pd.DataFrame) -> str:
    """The table for programs: three decimals, empty where there is no value."""
    return frame.to_csv(index=False, float_format="%.3f", lineterminator="\n")


def to_markdown(frame: pd.DataFrame, metrics: Metrics, protocol: Protocol, *, name: str) -> str:
    """The table for people, with every seed's accuracies and what produced them below it."""
    header = ["arm", "clean, %", "robust, %", "robust − full", "attack cost", "total cost", "epoch time"]
    more = {column: find for column, find in MORE.items() if any(map(find, _all(metrics)))}
    header += [*more, "paper clean", "paper robust"]
    body = [
        [
            marked(str(row["arm"]), metrics[str(row["arm"])]),
            _number(row["clean"], row["clean_ci"]),
            _number(row["robust"], row["robust_ci"]),
            _number(row["robust_minus_full"], row["robust_minus_full_ci"], sign=True),
            *(_number(row[column], digits=2) for column in COSTS),
            *(_over_seeds([find(run) for run in metrics[str(row["arm"])]]) for find in more.values()),
            _number(row["paper_clean"]),
            _number(row["paper_robust"]),
        ]
        for row in frame.to_dict("records")
    ]
    seeds = [
        [arm, str(run["seed"]), _number(run["clean"], digits=2), _number(run["robust"], digits=2)]
        for arm, runs in metrics.items()
        for run in runs
    ]
    return (
        "\n\n".join(
            [
                f"# Results: {name}",
                _reading(protocol) + (MORE_READING if more else "") + unattacked(metrics, protocol.headline),
                grid(header, body),
                "## Every seed",
                grid(["arm", "seed", "clean, %", "robust, %"], seeds),
                "## Made with",
                "\n".join(f"- {line}" for line in sorted(set(map(_made_with, _all(metrics))))),
                "The hours that each run took, added up, however many ran at a time and whatever else did:",
                grid(["seed", "runs", "training, hours", "evaluation, hours"], _hours(_all(metrics))),
            ]
        )
        + "\n"
    )


def _hours(runs: Sequence[dict[str, Any]]) -> list[list[str]]:
    """A line for each seed and, of several, one for all of them together."""
    seeds = {str(run["seed"]): [one for one in runs if one["seed"] == run["seed"]] for run in runs}
    groups = {**seeds, "all": runs} if len(seeds) > 1 else seeds
    body = []
    for name, group in groups.items():
        training = sum(epoch["epoch_seconds"] for run in group for epoch in run["training"]["history"])
        evaluation = sum(run["evaluation"]["seconds"] for run in group)
        body.append([name, str(len(group)), f"{training / 3600:.2f}", f"{evaluation / 3600:.2f}"])
    return body


def settings(protocol: Protocol) -> str:
    """What params.yaml says of the protocol, as a table."""
    said = protocol.model_dump(exclude={"evaluate", "paper"})
    said |= {f"evaluate.{name}": value for name, value in protocol.evaluate.model_dump().items()}
    return grid(["setting", "value"], [[name, _setting(value)] for name, value in said.items()], left=2)


def _setting(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return _size(value) if isinstance(value, float) else str(value)


def _all(metrics: Metrics) -> list[dict[str, Any]]:
    return [run for runs in metrics.values() for run in runs]


def _over_seeds(entries: Sequence[dict[str, Any] | None]) -> str:
    values = [entry["robust"] for entry in entries if entry]
    return _number(*mean_and_half_width(values)) if values else "–"


def _reading(protocol: Protocol) -> str:
    """How the columns are to be read."""
    attack = protocol.evaluate
    interval = (
        f"± is the half-width of a 95 % t-interval over {len(protocol.seeds)} seeds, paired for the difference."
        if len(protocol.seeds) > 1
        else "One seed: there is no interval, and no difference here is more than an observation."
    )
    return (
        f"Robust accuracy: PGD-{attack.steps}, ε = {_size(protocol.eps)}, step {_size(attack.step_size)}, on "
        f"{attack.examples} test images, {NETWORK[protocol.headline]}. Costs and time are ratios to `full`: attack "
        f"cost counts PGD passes, total cost all passes of training, scoring included; time is an epoch's wall clock, "
        f"the arms taking turns on one machine (the median round; of an arm that was not timed so: its runs' median "
        f"epoch). {interval}"
    )


def _number(value: float | None, half_width: float | None = None, *, digits: int = 1, sign: bool = False) -> str:
    if value is None or pd.isna(value):
        return "–"
    text = f"{value:{'+' if sign else ''}z.{digits}f}"  # z: no minus before what is rounded to nothing
    return text if half_width is None or pd.isna(half_width) else f"{text} ± {half_width:.{digits}f}"


def _size(value: float) -> str:
    """A radius as the field writes it: 0.3, but 8/255."""
    pixels = value * 255
    return f"{round(pixels)}/255" if abs(pixels - round(pixels)) < 1e-6 and len(f"{value:g}") > 5 else f"{value:g}"


def grid(header: Sequence[str], body: Sequence[Sequence[str]], *, left: int = 1) -> str:
    """A Markdown table; the first `left` columns are text, the others numbers."""
    rule = ["---" if column < left else "---:" for column in range(len(header))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, rule, *body))


def _made_with(run: dict[str, Any]) -> str:
    made = run["training"]
    threads = "1 thread" if made["threads"] == 1 else f"{made['threads']} threads"
    return f"{made['device']}, {threads}, {made['precision']}, torch {made['torch']}"
