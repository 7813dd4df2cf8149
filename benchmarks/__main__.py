"""`python -m benchmarks <folder>`: measure everything side by side, and write <folder>/<device>.{json,md,png,svg}."""

import json
import os
import re
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import draw, epochs, matching, memory, peers, precisions, report, settings, startup, targets, timing
from benchmarks.contest import Contest
from benchmarks.hotspots import hotspots
from seladv import checkpoint, precision, provenance, style

ROOT = Path(__file__).parents[1]
NOT_MEASURED = {"device": "cuda", "seconds": None, "absent": "not measured", "loss_reached": None}


def measure(device: torch.device) -> dict[str, Any]:
    """All of the benchmark's measurements, as JSON can hold them."""
    started, load = time.monotonic(), os.getloadavg()[0]
    found = peers.load()
    rows: list[dict[str, Any]] = []
    figures: list[targets.Figure] = []
    profiled: dict[str, Callable[[], Any]] = {}

    say("start-up", started)
    starts = startup.measure(repetitions=settings.START_REPETITIONS, epochs=settings.START_EPOCHS)
    say("memory", started)
    peaks = [(size, [memory.measure("training", size, device)]) for size in settings.MEMORY_BATCH_SIZES]
    for case in settings.CASES:
        for batch in settings.BATCHES:
            say(f"{case.name}, batch {batch}", started)
            contest = Contest(case, batch=batch, device=device, found=found)
            times, more = contest.run()
            rows += more
            figures += targets.of_contest(contest, times)
            profiled |= contest.named()

    matched: list[matching.Matching] = []
    for case in settings.CASES:
        say(f"{case.name}: exact gradient matching", started)
        matched.append(matching.measure(case, device=device, found=found))
        figures += targets.of_matching(matched[-1])
        profiled |= matched[-1].calls

    say("training epochs", started)
    runs = {arm: epochs.new_run(arm, batches=settings.EPOCH_BATCHES, device=device) for arm in settings.ARMS}
    spent = epochs.interleave(runs, repetitions=settings.EPOCH_REPETITIONS)
    figures += targets.of_epochs(spent)
    profiled |= {f"epoch: {arm}": partial(epochs.epoch, run) for arm, run in runs.items()}

    figures += targets.of_startup(starts)

    say("bf16 against fp32", started)
    precise = [precisions.measure("digits", root=ROOT)]
    elsewhere = ROOT / "results" / "bench" / "precisions-mnist.json"  # takes half an hour: a command of its own
    precise += [json.loads(elsewhere.read_text())] if elsewhere.exists() else []
    figures += targets.of_precisions(precise)

    say("growth", started)
    per_step = {arm: [line["epoch_seconds"] / settings.EPOCH_BATCHES for line in spent[arm]] for arm in runs}
    size = settings.TRAINING["batch_size"]
    share = {arm: 100 * run.arm.count(size) / size for arm, run in runs.items()}
    growth = {
        "step_seconds_by_ratio": epochs.growth("attacked, %", ((share[arm], per_step[arm]) for arm in runs)),
        "step_seconds_by_steps": epochs.step_growth("PGD steps", "steps", settings.GROWTH_STEPS, device=device),
        "step_seconds_by_batch": epochs.step_growth(
            "batch size", "batch_size", settings.GROWTH_BATCH_SIZES, device=device
        ),
        "peak_memory_mib_by_batch": epochs.growth("batch size", peaks),
    }

    say("profiles of what missed its target", started)
    missed = dict.fromkeys(f["hot"] for f in figures if f["met"] is False and f["hot"])
    return {
        "provenance": provenance.describe(ROOT) | peers.versions(found),
        "device": device.type,
        "precision": precision.resolve("auto", device),
        "quick": settings.QUICK,
        "load_before": load,
        "seconds": time.monotonic() - started,
        "rows": rows if settings.GPU else rows + [{**row, **NOT_MEASURED} for row in rows],
        "matching": [row for one in matched for row in one.rows()],
        "matching_growth": {f"{name}, {one.where}": line for one in matched for name, line in one.growth().items()},
        "epochs": {arm: epochs.summary(lines) for arm, lines in spent.items()},
        "targets": figures,
        "startup": {name: timing.spread(seconds)._asdict() for name, seconds in starts.items()},
        "precisions": precise,
        "growth": growth,
        "profiles": {name: hotspots(profiled[name], device=device) for name in missed},
    }


def say(what: str, started: float) -> None:
    """One plain line of progress."""
    print(f"{time.monotonic() - started:5.0f} s  {what}", flush=True)


def main(folder: Path) -> None:
    """Measure, write the three files, and print the table of targets."""
    device = provenance.device()
    measured = measure(device)
    slug = re.sub(r"[^a-z0-9]+", "-", f"{device.type} {measured['provenance']['device']}".lower()).strip("-")
    checkpoint.write_json(folder / f"{slug}.json", measured)
    checkpoint.write_bytes(folder / f"{slug}.md", report.markdown(measured, figure=f"{slug}.svg").encode())
    style.save(draw.draw(measured), folder / slug)
    print(report.targets_table(measured))
    print(f"Report: {folder / slug}.md")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
