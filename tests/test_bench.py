"""A benchmark run from end to end, too brief to time anything: no test here depends on a speed."""

import json
import os
import runpy
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.image import imread
from torch.nn.functional import conv2d

from seladv.gradients import last_layer_cosine
from seladv.models import mnist_cnn
from seladv.resnet import MEAN, STD, resnet18_cifar

sys.path.append(str(Path(__file__).parents[1]))  # the benchmark is no part of the installed package

from benchmarks import matching, peers, scoring, settings, targets, timing
from benchmarks.contest import Contest

ROOT = Path(__file__).parents[1]
ROWS = {"textbook", "torchattacks", "foolbox", "seladv", "seladv fp32", "forward", "margin", "gradmatch-last"}
FIGURES = ("textbook / seladv", "faster peer", "textbook / seladv in fp32", "seladv / limit", "margin / forward",
           "gradmatch-last / forward", "epoch of margin-50 / full", "loop of margin-50", "loop of full",
           "start-up of a stage", "bf16 moves robust", "gradmatch / forward + backward", "vmap(grad) / gradmatch",
           "opacus / gradmatch", "peak memory, opacus / gradmatch", "peak memory, gradmatch / forward + backward",
           "growth of peak memory with the batch, gradmatch / forward + backward")  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a quick run has written its report."""
    folder = tmp_path_factory.mktemp("bench")
    env = {**os.environ, "BENCH_QUICK": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", str(folder)],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def measured(folder: Path) -> dict[str, Any]:
    (path,) = folder.glob("*.json")
    return json.loads(path.read_text())


def test_every_row_is_measured_or_says_that_it_is_not(measured: dict[str, Any]) -> None:
    here = [row for row in measured["rows"] if row["device"] == measured["device"]]
    assert {row["row"] for row in here if not row["row"].startswith("limit")} == ROWS
    assert sum(row["row"].startswith("limit") for row in here) == 2
    missing = {row["row"] for row in here if row["seconds"] is None}
    assert missing <= {"torchattacks", "foolbox"}
    for row in here:
        if row["seconds"] is not None:
            assert 0 < row["seconds"]["q1"] <= row["seconds"]["median"] <= row["seconds"]["q3"]
    if not torch.cuda.is_available():
        gpu = [row for row in measured["rows"] if row["device"] == "cuda"]
        assert len(gpu) == len(here)
        assert not any(row["seconds"] for row in gpu)


def test_the_attacks_rows_can_be_had_alone(tmp_path: Path, measured: dict[str, Any]) -> None:
    env = {**os.environ, "BENCH_QUICK": "1", "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", "benchmarks.attack_steps", str(tmp_path)], cwd=ROOT, env=env, check=True)
    (path,) = tmp_path.glob("attack-steps-*.json")
    alone = json.loads(path.read_text())
    here = [row for row in measured["rows"] if row["device"] == measured["device"]]
    assert [(row["network"], row["batch"], row["row"]) for row in alone["rows"]] == [
        (row["network"], row["batch"], row["row"]) for row in here
    ]
    assert alone["provenance"].keys() == measured["provenance"].keys()


def test_every_way_to_gradient_matching_is_measured_or_not_installed(measured: dict[str, Any], folder: Path) -> None:
    rows = {row["row"]: row for row in measured["matching"]}
    assert {*scoring.NAMES} <= {*rows}
    assert {name for name, row in rows.items() if row["seconds"] is None} <= {"opacus"}
    (path,) = folder.glob("*.md")
    report = path.read_text()
    for name, row in rows.items():
        assert (f"| {name} | not installed |" in report) == (row["seconds"] is None)
        if name in ("gradmatch", "vmap(grad)", "opacus") and row["seconds"]:
            assert row["apart"] < 1e-3  # one and the same score: in fp32, of a network without batch norm


def test_memory_of_scoring_is_that_of_the_call_alone(measured: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_QUICK", "1")
    quick = runpy.run_path(str(settings.__file__))  # as the measuring process had them
    peaks = {row["row"]: row["peak_mib"] for row in measured["matching"]}
    assert 0 <= peaks["gradmatch"] < 200  # torch alone takes more
    if peaks["opacus"] is not None:
        gradients = quick["MATCHING_BATCH"] * 4 * sum(weight.numel() for weight in mnist_cnn().parameters()) / 2**20
        assert peaks["opacus"] > gradients
    for name in ("gradmatch", "forward + backward"):
        sizes = [line["points"] for growth, line in measured["matching_growth"].items() if growth.startswith(name)]
        assert [[point["x"] for point in points] for points in sizes] == [[*quick["MATCHING_MEMORY_SIZES"]]]


def test_every_attack_reaches_the_same_loss(measured: dict[str, Any]) -> None:
    reached = {row["row"]: row["loss_reached"] for row in measured["rows"] if row["loss_reached"] is not None}
    assert {"textbook", "seladv", "seladv fp32"} <= set(reached)
    assert list(reached.values()) == pytest.approx([reached["textbook"]] * len(reached), rel=0.05)


def test_every_figure_stands_beside_its_target(measured: dict[str, Any]) -> None:
    names = [figure["figure"] for figure in measured["targets"]]
    assert all(any(part in name for name in names) for part in FIGURES)
    for figure in measured["targets"]:
        assert figure["target"]
        assert (figure["met"] is None) == (figure["value"] is None)
        if figure["met"] is False and figure["hot"]:
            shares = [operation["share"] for operation in measured["profiles"][figure["hot"]]]
            assert shares == sorted(shares, reverse=True)
            assert 0 < sum(shares) <= 1 + 1e-9


def test_growth_comes_with_a_straight_line(measured: dict[str, Any]) -> None:
    assert len(measured["growth"]) == 4
    for growth in measured["growth"].values():
        assert len(growth["points"]) > 1
        assert 0 <= growth["r2"] <= 1 + 1e-9


def test_the_report_names_what_produced_it(folder: Path, measured: dict[str, Any]) -> None:
    assert {"device", "threads", "torch", "torchvision", "revision"} <= set(measured["provenance"])
    (path,) = folder.glob("*.md")
    text = path.read_text()
    assert measured["provenance"]["torch"] in text
    assert f"({path.stem}.svg)" in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    for figure in measured["targets"]:
        assert any(line.startswith(f"| {figure['figure']} | {figure['target']} |") for line in lines)


def test_the_figure_is_drawn(folder: Path) -> None:
    (png,), (svg,) = folder.glob("*.png"), folder.glob("*.svg")
    assert imread(png).std() > 0
    assert ElementTree.parse(svg).getroot().tag.endswith("svg")


def test_a_peer_that_is_not_installed_is_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(peers, "NAMES", ("torchattacks_of_another_name",))
    monkeypatch.setattr(peers, "GRADIENTS", ())
    found = peers.load()
    assert capsys.readouterr().out.count("\n") == 1
    case = settings.MNIST._replace(steps=1, repetitions=2)
    contest = Contest(case, batch=2, device=torch.device("cpu"), found=found)
    times, rows = contest.run()
    assert [row["row"] for row in rows if row["seconds"] is None] == ["torchattacks_of_another_name"]
    assert [figure["met"] for figure in targets.of_contest(contest, times) if "peer" in figure["figure"]] == [None]


def test_a_way_that_is_not_installed_keeps_its_row_and_its_figures() -> None:
    ways = [name for name in scoring.NAMES if name != "opacus"]
    peaks = {name: {size: 1.0 + size for size in settings.MATCHING_MEMORY_SIZES} for name in ways[:2]}
    cosines = {name: torch.zeros(2) for name in ways[1:]}
    found = matching.Matching("net, batch 2", {name: [1.0, 2.0] for name in ways}, cosines, peaks, {})
    assert [row["row"] for row in found.rows() if row["seconds"] is None] == ["opacus"]
    missing = [figure["figure"] for figure in targets.of_matching(found) if figure["met"] is None]
    assert missing == ["net, batch 2: opacus / gradmatch", "net, batch 2: peak memory, opacus / gradmatch"]


def test_a_ratio_is_taken_round_by_round() -> None:
    assert timing.ratio([2, 20, 200], [1, 10, 100]) == (2, 2, 2)


def test_contestants_take_turns() -> None:
    order: list[str] = []
    calls = {name: lambda name=name: order.append(name) for name in "abc"}
    times, _ = timing.interleave(calls, repetitions=4)
    assert [len(values) for values in times.values()] == [4, 4, 4]
    assert all(sorted(order[start : start + 3]) == ["a", "b", "c"] for start in range(0, 15, 3))


def test_resnet_takes_images_between_0_and_1_and_ends_in_a_linear_layer() -> None:
    torch.manual_seed(0)
    model, x = resnet18_cifar().eval(), torch.rand(2, 3, 32, 32)
    normal = (x - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    assert torch.allclose(model[0](x), normal, atol=1e-5)
    assert model[1].conv1(normal).shape == conv2d(x, torch.zeros(64, 3, 1, 1)).shape
    assert last_layer_cosine(model, x, torch.tensor([0, 1])).shape == (2,)
    assert not [name for name in model.state_dict() if name.startswith("0.")]
