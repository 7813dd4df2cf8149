"""`python -m seladv.lanes <protocol> [<lanes>]`: train and evaluate a protocol's runs several at a time, a thread each.

`dvc repro` runs one stage after the other. Small networks gain little from a second thread, so that as many runs at a
time as there are cores finish sooner. A run's result depends on its number of threads, not on its neighbours.

Every stage is DVC's own, with its checks, locks and cache. Only dvc.lock is not written again after each of them: that
takes as long as a small network's epochs, and longer with every run that the study has.
"""

import multiprocessing
import os
import re
import sys
import time
from collections.abc import Iterator
from multiprocessing import Process
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import TypeAlias

from dvc.exceptions import DvcException
from dvc.repo import Repo, lock_repo
from dvc.stage import Stage

from seladv import params, plain

Counter: TypeAlias = "Synchronized[int]"  # the index of the next run that no lane has taken
PERIOD = 300.0  # seconds between two times that dvc.lock is written, as between two of a training's saved states


def targets(protocol: str, run: str) -> list[str]:
    """The stages of one run, such as `margin-50-0`, in their order."""
    return [f"train-{protocol}@{run}", f"evaluate-{protocol}@{run}"]


def plan(root: Path, protocol: str) -> list[list[str]]:
    """The stages of every run that params.yaml asks for.

    Raises:
        ValueError: there is no such protocol, or params.yaml is wrong.
    """
    study = params.load(root / "params.yaml", protocol)
    return [targets(protocol, f"{arm}-{seed}") for arm in study.arms for seed in study.seeds]


def untaken(runs: list[list[str]], taken: Counter) -> Iterator[list[str]]:
    """Those of `runs` that no other lane has taken, one after the other: behind a dear arm nothing waits."""
    while True:
        with taken.get_lock():
            index = taken.value
            taken.value += 1
        if index >= len(runs):
            return
        yield runs[index]


def record(stages: list[Stage]) -> None:
    """Write what `stages` read and made to dvc.lock, and forget them."""
    if stages:
        stages[0].dvcfile.dump_stages(stages, update_pipeline=False)
        stages.clear()


def run(runs: list[list[str]], taken: Counter, stop: Event) -> None:
    """`dvc --wait-for-lock repro --single-item` of the stages of untaken runs, with dvc.lock written every `PERIOD`.

    A stage that fails ends its own run only. `stop` ends the lane: a Ctrl-C reaches the stage, and DVC ignores it.

    Raises:
        DvcException: stages failed. What else was to be done is done, but for what comes after one of them in its run.
    """
    repo = Repo(_wait_for_lock=True)
    with lock_repo(repo), repo.scm_context(quiet=True):  # DVC lets the lock go while a stage's command runs
        groups = {name.partition("@")[0] for names in runs for name in names}
        known = {stage.name: stage for group in groups for stage in repo.stage.collect(group)}  # each reads all files
        done: list[Stage] = []
        failed: list[str] = []
        recorded = time.monotonic()
        try:
            for names in untaken(runs, taken):
                try:
                    for name in names:
                        if not stop.is_set() and known[name].reproduce():
                            done.append(known[name])
                        if time.monotonic() > recorded + PERIOD:
                            record(done)
                            recorded = time.monotonic()
                except DvcException as error:
                    failed.append(plain.line(error))
        finally:
            record(done)
    if failed:
        raise DvcException("; ".join(failed))


def lane(runs: list[list[str]], taken: Counter, stop: Event) -> None:
    """A process of its own for `run`: a failure is a line, and the exit code."""
    try:
        run(runs, taken, stop)
    except DvcException as error:
        sys.exit(plain.line(error))
    except KeyboardInterrupt:  # between two stages
        sys.exit(1)


def side_by_side(runs: list[list[str]], lanes: int) -> None:
    """Do all `runs`, `lanes` of them at a time.

    Raises:
        RuntimeError: a stage failed in one of them, and every other run is done; or a person stopped it.
    """
    taken, stop = multiprocessing.Value("i", 0), multiprocessing.Event()
    processes = [Process(target=lane, args=[runs, taken, stop]) for _ in range(min(lanes, len(runs)))]
    for process in processes:
        process.start()
    try:
        for process in processes:
            process.join()
    except KeyboardInterrupt:
        stop.set()
        for process in processes:
            process.join()
        raise RuntimeError("Stopped. What was done is kept; the same command does what is left.") from None
    if any(process.exitcode for process in processes):
        raise RuntimeError(
            "A stage failed, see above. All else is done; after a mend, the same command does what is left."
        )


def main(protocol: str, lanes: str = "") -> None:
    """Check params.yaml, prepare the data, train and evaluate; by default in as many lanes as there are cores.

    Raises:
        ValueError: there is no such protocol, params.yaml is wrong, or `lanes` is no number of them.
        RuntimeError: a stage failed.
    """
    if lanes and not re.fullmatch("[1-9][0-9]*", lanes):
        raise ValueError(f"lanes: {lanes!r} is no number of runs at a time; leave it out for one on each core")
    os.environ["OMP_NUM_THREADS"] = "1"
    runs = plan(Path(), protocol)
    side_by_side([["check", f"data-{protocol}"]], 1)
    side_by_side(runs, int(lanes) if lanes else len(os.sched_getaffinity(0)))


if __name__ == "__main__":
    plain.command(main, usage="python -m seladv.lanes PROTOCOL [LANES]")
