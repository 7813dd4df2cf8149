"""`python -m benchmarks <folder>`: run every contest, and write <folder>/<processor>.json and .md.

It runs on the GPU where there is one. On two CPU cores it takes less than ten minutes.
"""

import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from benchmarks import attacks, epochs, matching, peers
from benchmarks.contest import CASES, Case, Contest, run
from seladv.study import places
from seladv.training.device import describe, device, resolve

ROOT = Path(__file__).parents[1]
SECONDS = 30.0  # of a contest, warm-up not counted
BATCHES = 4  # of an epoch

TEXT = """# Benchmark: {device}

{facts}; {seconds:.0f} s in all. Every number is in the JSON file beside this one.

Contestants take turns, in another order each round, on the same random images. `ms`: median (quartiles) over the
rounds. `ratio`: to the contestant that has 1.00, taken round by round, median. `check`: the mean loss that an attack
reaches, or how far any cosine is from gradmatch's.

- `textbook`: fp32, default layout, ReLU before pooling, `loss.backward()` in the attack.
- `torchattacks`, `foolbox`: their PGD on the textbook's network.
- `seladv`: `pgd` on a folded copy of the network (`seladv.frozen`), brought up to date before each attack, or a run of
  the study; `plain`: `pgd` on the network as it is; both with channels last. `limit`: the folded copy's forward and
  input-gradient passes alone.
- All of them under the allocator's settings of the stages, where `make bench` ran them.
- `forward + backward`: a mean loss and every weight's gradient; `opacus`: without batch norm's parameters.

{table}

Half of each batch attacked (`margin-50`) instead of all of it (`full`), time of the one over the other, by
implementation. The attack is one part of an epoch, so the faster it is, the less of the whole is saved by halving it.

{halves}
"""


def contests(cases: Sequence[Case], *, batches: int, device: torch.device, found: dict[str, Any]) -> Iterator[Contest]:
    """The attack and exact matching on each case; epochs on all but the last, whose batches take a CPU too long."""
    for case in cases:
        yield attacks.contest(case, device=device, found=found)
    for case in cases[:-1] or cases:
        yield epochs.contest(case, batches=batches, device=device)
    for case in cases:
        for precision in dict.fromkeys(("fp32", resolve("auto", device))):
            yield matching.contest(case, precision=precision, device=device, found=found)


def markdown(measured: dict[str, Any]) -> str:
    """The table, and what the words in it mean."""
    made = measured["provenance"]
    table = pd.DataFrame(
        {
            "contest": row["contest"],
            "contestant": row["contestant"],
            "ms": "{median:.2f} ({q1:.2f}–{q3:.2f})".format_map(row["ms"]),
            "per": row["unit"],
            "ratio": f"{row['ratio']['median']:.2f}",
            "check": "" if row["check"] is None else f"{row['check']:.3g}",
        }
        for row in measured["rows"]
    ).to_markdown(index=False, disable_numparse=True)
    times = {(row["contest"], row["contestant"]): row["ms"]["median"] for row in measured["rows"]}
    halves = pd.DataFrame(
        {"contest": title, "implementation": who, "margin-50 ÷ full": f"{time / times[title, f'{who}, full']:.2f}"}
        for (title, name), time in times.items()
        for who, arm in [name.split(", ") if title.startswith("epoch") else ("", "")]
        if arm == "margin-50"
    ).to_markdown(index=False, disable_numparse=True)
    facts = ", ".join(f"{name} {value}" for name, value in made.items())
    return TEXT.format(device=made["device"], facts=facts, seconds=measured["seconds"], table=table, halves=halves)


def main(folder: Path, *, cases: Sequence[Case] = CASES, batches: int = BATCHES, seconds: float = SECONDS) -> None:
    """Measure, write both files, and print the report."""
    started, load = time.monotonic(), round(os.getloadavg()[0], 2)
    rows: list[dict[str, Any]] = []
    found = peers.load()
    for contest in contests(cases, batches=batches, device=device(), found=found):
        print(f"{time.monotonic() - started:5.0f} s  {contest.title}", flush=True)
        rows += run(contest, seconds=seconds)
    made = describe(ROOT) | {name: version(name) for name in found} | {"load before": load}
    measured = {"provenance": made, "seconds": time.monotonic() - started, "rows": rows}
    path = folder / re.sub(r"[^a-z0-9]+", "-", made["device"].lower()).strip("-")
    places.write_json(path.with_suffix(".json"), measured)
    places.write_bytes(path.with_suffix(".md"), markdown(measured).encode())
    print(markdown(measured))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
