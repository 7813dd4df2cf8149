"""Lanes share out the runs; what they then do with DVC is in test_pipeline.py."""

import multiprocessing
from pathlib import Path

from seladv import lanes, params


def test_every_run_is_taken_once_by_whichever_lane_is_free() -> None:
    runs = [[str(number)] for number in range(5)]
    taken = multiprocessing.Value("i", 0)
    long, short = lanes.untaken(runs, taken), lanes.untaken(runs, taken)
    assert next(long) == ["0"]
    assert [next(short) for _ in range(3)] == [["1"], ["2"], ["3"]]  # while the other lane is at its first
    assert list(long) == [["4"]]
    assert list(short) == []


def test_the_plan_is_that_of_params() -> None:
    study = params.load(Path("params.yaml"), "cifar10-small")
    runs = lanes.plan(Path(), "cifar10-small")
    assert len(runs) == len(study.arms) * len(study.seeds)
    assert runs[0] == ["train-cifar10-small@full-0", "evaluate-cifar10-small@full-0"]
