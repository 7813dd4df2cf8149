"""The benchmark's report, to read."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Measured = Mapping[str, Any]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows))


def cell(
    value: Mapping[str, float] | None, *, scale: float = 1.0, digits: int = 3, absent: str | None = "not installed"
) -> str:
    """Median and quartiles, or why there are none: `absent`."""
    if value is None:
        return str(absent)
    median, q1, q3 = (f"{scale * value[key]:.{digits}f}" for key in ("median", "q1", "q3"))
    return f"{median} ({q1}–{q3})"


def targets_table(measured: Measured) -> str:
    """Every figure beside its target."""
    verdict = {True: "met", False: "**not met**", None: "not measured"}
    rows = [(f["figure"], f["target"], cell(f["value"], digits=2), verdict[f["met"]]) for f in measured["targets"]]
    return table(["figure", "target", f"{measured['device']}: median (quartiles)", "verdict"], rows)


def times_table(measured: Measured, network: str) -> str:
    """Milliseconds of every row on one network, a column for each device and batch."""
    rows = [row for row in measured["rows"] if row["network"] == network]
    columns = list(dict.fromkeys((row["device"], row["batch"]) for row in rows))
    cells = {(row["row"], row["device"], row["batch"]): row for row in rows}
    lines = []
    for name, unit in dict.fromkeys((row["row"], row["unit"]) for row in rows):
        found = [cells[name, *column] for column in columns]
        reached = [f"{row['loss_reached']:.2f}" for row in found if row["loss_reached"] is not None]
        times = [cell(row["seconds"], scale=1000, digits=2, absent=row["absent"]) for row in found]
        lines.append((name, unit, *times, ", ".join(reached)))
    return table(["", "ms per", *(f"{device}, batch {batch}" for device, batch in columns), "loss reached"], lines)


def matching_table(measured: Measured, where: str) -> str:
    """Time, peak memory and agreement of the ways to gradient matching's cosines."""
    rows = []
    for row in (row for row in measured["matching"] if row["where"] == where):
        peak = "–" if row["peak_mib"] is None else f"{row['peak_mib']:.0f}"
        apart = "–" if row["apart"] is None else f"{row['apart']:.0e}"
        rows.append((row["row"], cell(row["seconds"], scale=1000, digits=1), peak, apart))
    return table([where, "ms", "peak memory, MiB", "cosines farthest from gradmatch's"], rows)


def epochs_table(measured: Measured) -> str:
    """Seconds of an epoch by arm and phase, beside its passes."""
    passes = measured["epochs"]["full"]["passes"]
    rows = [
        (arm, cell(e["epoch_seconds"]), *(cell(s) for s in e["seconds"].values()), f"{e['passes'] / passes:.3f}")
        for arm, e in measured["epochs"].items()
    ]
    return table(["arm", "epoch, s", "scoring, s", "attack, s", "update, s", "passes ÷ full"], rows)


def startup_table(measured: Measured) -> str:
    """Seconds of a stage's start by the way it is run, and what they are of a training run."""
    starts = measured["startup"]
    training = starts["training"]["median"]
    rows = [(name, cell(seconds), f"{seconds['median'] / training:.2f}") for name, seconds in starts.items()]
    return table(["", "s", "÷ training"], rows)


def precisions_table(measured: Measured) -> str:
    """Accuracies in both precisions, seed by seed."""
    rows = []
    for one in measured["precisions"]:
        for r in one["rows"]:
            seeds = [", ".join(f"{value:.1f}" for value in r[precision]) for precision in ("bf16", "fp32")]
            numbers = [f"{r[name]:.2f}" for name in ("mean", "most", "spread")]
            rows.append((one["protocol"], r["arm"], r["kind"], *seeds, *numbers, "yes" if r["within"] else "**no**"))
    return table(["protocol", "arm", "accuracy", "bf16", "fp32", "mean", "most", "spread", "within"], rows)


def growth_table(measured: Measured) -> str:
    """The straight lines."""
    memory = {f"peak_memory_mib of {name}": growth for name, growth in measured["matching_growth"].items()}
    rows = [
        (name.replace("_", " "), g["x"], f"{g['intercept']:.4g}", f"{g['slope']:.4g}", f"{g['r2']:.4f}")
        for name, g in (measured["growth"] | memory).items()
    ]
    return table(["", "against", "at 0", "for each 1", "R²"], rows)


def profiles(measured: Measured) -> str:
    """Where the time goes, for what missed a target."""
    if not measured["profiles"]:
        return "No target was missed."
    lines = []
    for name, operations in measured["profiles"].items():
        spent = ", ".join(f"`{o['operation'][:60]}` {o['share']:.0%}" for o in operations)
        lines.append(f"- {name}: {spent}")
    return "\n".join(lines)


def markdown(measured: Measured, *, figure: str) -> str:
    """The whole report; `figure` is the drawing's file name."""
    machine = {**measured["provenance"], "precision": measured["precision"]}
    facts = ", ".join(f"{key} {value}" for key, value in machine.items())
    quick = "\n**A quick run: its numbers mean nothing.**\n" if measured["quick"] else ""
    networks = dict.fromkeys(row["network"] for row in measured["rows"])
    matching = "\n\n".join(matching_table(measured, w) for w in dict.fromkeys(r["where"] for r in measured["matching"]))
    times = "\n\n".join(f"### {network}\n\n{times_table(measured, network)}" for network in networks)
    return f"""# Benchmark: {machine["device"]}
{quick}
{facts}; load before the run {measured["load_before"]:.2f}; {measured["seconds"] / 60:.1f} minutes in all.
Written by `make bench`; every number is in the JSON file beside this one.

## Targets

A ratio is taken round by round between measurements of the same round; median and quartiles over the rounds.

{targets_table(measured)}

![]({figure})

## Times

Contestants take turns, in another order each round, on the same random images; median (quartiles) over the rounds. All
attack the same function in eval mode; `loss reached` is the mean loss after the attack: none is fast by attacking less.

- `textbook`: fp32, default layout, ReLU before pooling, `loss.backward()` in the attack (`benchmarks/textbook.py`).
- `torchattacks`, `foolbox`: their PGD with the same settings on the textbook network in fp32, as they are used.
- `seladv`: `seladv.attack.pgd` on the study's network, channels last, {machine["precision"]}; `seladv fp32`: in fp32.
- `limit`: the network's forward and input-gradient passes alone; the faster of two ways is the limit.
- `forward`: one forward pass without gradients; `margin`, `gradmatch-last`: scoring the batch and choosing half of it.

{times}

## Exact gradient matching

The cosine of every sample's gradient, over all parameters, with the batch's mean; in fp32 where nothing else is said.
Peak memory is what one call takes besides network, images and libraries, in a process of its own.

- `forward + backward`: a mean loss and its gradient, as an update makes them: the unit.
- `gradmatch`: `seladv.ghost.cosine`, its own passes included; all that the criterion of that name adds is the choice.
- `vmap(grad)`: one gradient per sample by torch.func (under bf16 autocast its batch norm fails).
- `opacus`: one gradient per sample by its hooks, without those of batch norm's parameters, which it does not support.

{matching}

## Training

Epochs of the MNIST network on random images, through `seladv.train.train_epoch`.

{epochs_table(measured)}

## Start-up

A stage whose notebook only imports what training imports, from the command line to its end, beside a digits run of
margin-50 (the epochs alone), in turns; median (quartiles).

- `papermill`: the command, with a kernel of its own.
- `cold`: `python -m seladv.stage` with `SELADV_WARM=0`, papermill without a kernel.
- `warm`: `python -m seladv.stage`, as in `dvc.yaml`: a fork of the process that a first stage has started.

{startup_table(measured)}

## bf16 against fp32

The same runs trained in either and judged in fp32: accuracies of the seeds, percent; how far the two are apart, in the
mean and at most for one seed; and the range over the seeds. MNIST: one epoch of
12,000 images instead of five of all, judged on 2,000.

{precisions_table(measured)}

## Growth

{growth_table(measured)}

## What the time is spent on where a target is missed

Each operation's own share of the time (torch.profiler, one call).

{profiles(measured)}
"""
