"""`python -m seladv.lanes <protocol> [<lanes>]`: train and evaluate a protocol's runs several at a time, a thread each.

`dvc repro` runs one stage after the other. Small networks gain little from a second thread, so that as many runs at a
time as there are cores finish sooner. A run's result depends on its number of threads, not on its neighbours.
"""

import os
import subprocess
from pathlib import Path

from seladv import params, plain


def split(stages: list[str], lanes: int) -> list[list[str]]:
    """`stages` dealt out to at most `lanes` lists, none of them empty."""
    return [stages[lane::lanes] for lane in range(min(lanes, len(stages)))]


def targets(protocol: str, run: str) -> list[str]:
    """The stages of one run, such as `margin-50-0`, in their order."""
    return [f"train-{protocol}@{run}", f"evaluate-{protocol}@{run}"]


def commands(root: Path, protocol: str, lanes: int) -> list[list[str]]:
    """A `dvc repro` for each lane, over its share of the runs that params.yaml asks for.

    Raises:
        ValueError: there is no such protocol, or params.yaml is wrong.
    """
    study = params.load(root / "params.yaml", protocol)
    runs = [f"{arm}-{seed}" for arm in study.arms for seed in study.seeds]
    repro = ["dvc", "--wait-for-lock", "repro", "--single-item"]
    return [repro + [stage for run in lane for stage in targets(protocol, run)] for lane in split(runs, lanes)]


def main(protocol: str, lanes: str = "") -> None:
    """Run every lane to its end; by default there are as many as cores.

    Raises:
        RuntimeError: a stage failed in one of them; the others went on.
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    count = int(lanes) if lanes else len(os.sched_getaffinity(0))
    started = [subprocess.Popen(command, env=environment) for command in commands(Path(), protocol, count)]
    if any([lane.wait() for lane in started]):
        raise RuntimeError(
            "A stage failed, see above. The other runs went on; after a mend, the same command does what is left."
        )


if __name__ == "__main__":
    plain.command(main, usage="python -m seladv.lanes PROTOCOL [LANES]")
