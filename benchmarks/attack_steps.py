"""`python -m benchmarks.attack_steps <folder>`: an attack's step and the scoring alone, where time is short.

A GPU that is lent by the minute has none for all that `python -m benchmarks` measures. The rows are the same.
"""

import re
import sys
from pathlib import Path

from benchmarks import peers, settings
from benchmarks.contest import Contest
from seladv import checkpoint, provenance

ROOT = Path(__file__).parents[1]


def main(folder: Path) -> None:
    """Measure the rows of every network and batch size, and write them, with what made them, after each."""
    device, found = provenance.device(), peers.load()
    made = provenance.describe(ROOT) | peers.versions(found)
    slug = re.sub(r"[^a-z0-9]+", "-", made["device"].lower()).strip("-")
    rows = []
    for case in settings.CASES:
        for batch in settings.BATCHES:
            measured = Contest(case, batch=batch, device=device, found=found).run()[1]
            rows += measured
            checkpoint.write_json(folder / f"attack-steps-{slug}.json", {"provenance": made, "rows": rows})
            times = {row["row"]: 1000 * row["seconds"]["median"] for row in measured if row["seconds"]}
            for name, milliseconds in times.items():
                print(f"{case.name}, batch {batch}, {name}: {milliseconds:.3f} ms", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
