"""dvc.yaml and gpu/dvc.yaml: a stage depends on what it reads alone, and passes what its notebook takes."""

import re
import subprocess
from pathlib import Path
from typing import Any

import papermill
import pytest
import yaml

from seladv.study import check, params
from seladv.study.protocol import Protocol

ROOT = Path(__file__).parents[1]
PROTOCOLS = params.check(ROOT / "params.yaml")
TEMPLATES = ("data", "train", "evaluate", "autoattack", "table", "timing", "transfer", "fidelity")
DATA, NETWORK = "data/${protocol}.safetensors", "models/${protocol}/${item.arm}-${item.seed}"

Stages = dict[str, dict[str, Any]]


def read(file: str) -> Stages:
    stages: Stages = yaml.safe_load((ROOT / file).read_text())["stages"]
    return stages


CPU, GPU = read("dvc.yaml"), read("gpu/dvc.yaml")
STAGES = CPU | GPU


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_own_matrix(protocol: str) -> None:
    for kind in ("data", "train", "evaluate", "autoattack", "table"):
        stage = STAGES[f"{kind}-{protocol}"]
        assert stage["vars"] == [{"protocol": protocol}]
        matrix = {"arm": f"${{{protocol}.arms}}", "seed": f"${{{protocol}.seeds}}"}
        assert stage.get("matrix") == (matrix if kind in ("train", "evaluate", "autoattack") else None)


def test_every_stage_is_known() -> None:
    allowed = {f"{kind}-{protocol}" for kind in TEMPLATES for protocol in PROTOCOLS}
    assert set(STAGES) <= allowed | {"check", "claims"}
    assert set(check.gpu(ROOT)) == {name.removeprefix("table-") for name in GPU if name.startswith("table-")}


def test_dependencies() -> None:
    assert {kind: set(CPU[f"{kind}-digits"]["deps"]) for kind in TEMPLATES} == {
        "data": {"build/code/1-data.txt"},
        "train": {"build/code/2-train/${item.arm}.txt", DATA},
        "evaluate": {"build/code/3-evaluate.txt", DATA, NETWORK},
        "autoattack": {"build/code/3-autoattack.txt", DATA, NETWORK},
        "table": {"build/code/4-results.txt", "results/metrics/${protocol}", "results/autoattack/${protocol}"},
        "timing": {"build/code/timing.txt", DATA, "results/metrics/${protocol}"},
        "transfer": {"build/code/3-transfer.txt", DATA, "models/${protocol}"},
        "fidelity": {"build/code/4-fidelity.txt", DATA, "models/${protocol}/${of}"},
    }


def test_side_branches_feed_the_claims_alone() -> None:
    side = {f"results/{kind}/{name}.json" for kind in ("timing", "transfer", "fidelity") for name in PROTOCOLS}
    readers = {name for name, stage in STAGES.items() if side & {*stage.get("deps", [])}}
    assert readers == {"claims"}
    assert not [dep for dep in CPU["claims"]["deps"] if "digits" in dep]


def test_settings_reach_a_stage() -> None:
    training = set(PROTOCOLS["digits"].training()) - {"data", "holdout"}  # these two reach training as the data file
    assert {*CPU["data-digits"]["params"]} == {"${protocol}.data", "${protocol}.holdout"}
    assert {*CPU["train-digits"]["params"]} == {f"${{protocol}}.{name}" for name in training}
    read = {param for kind in TEMPLATES for param in CPU[f"{kind}-digits"]["params"]}
    subset = {"${protocol}.evaluate.subset"}  # is all of `evaluate` that AutoAttack depends on
    assert subset < {*CPU["autoattack-digits"]["params"]}
    assert read - subset == {f"${{protocol}}.{name}" for name in {*Protocol.model_fields} - {"max_hours", "weights"}}


@pytest.mark.parametrize("stage", [*(f"{kind}-digits" for kind in TEMPLATES if kind != "timing"), "claims"])
def test_every_parameter_is_passed(stage: str) -> None:
    """Else a change of the `parameters` cell, which no digest contains, would change a result unseen."""
    command = CPU[stage]["cmd"][1]
    notebook = re.search(r"notebooks/\S+\.ipynb", command)
    assert notebook
    assert {*re.findall(r" -[pr] (\w+)", command)} == {*papermill.inspect_notebook(ROOT / notebook[0])}
    assert command.startswith("${run} ${papermill} ")


def test_gpu_templates_equal_the_others() -> None:
    """But for the protocol that they are written for, and the folder that they run in."""
    for kind in TEMPLATES:
        ours, theirs = GPU[f"{kind}-cifar10"], CPU[f"{kind}-digits"]
        assert ours.pop("wdir") == ".."
        for stage in (ours, theirs):
            stage.pop("vars")
            stage.pop("matrix", None)
        assert ours == theirs
    ours, theirs = (yaml.safe_load((ROOT / file).read_text())["vars"] for file in ("gpu/dvc.yaml", "dvc.yaml"))
    assert ours == ["../params.yaml", *theirs]


def test_git_has_nothing_of_the_demo() -> None:
    command = ["git", "ls-files", "results/digits*", "results/*/digits", "results/*/digits.*", ":!results/first"]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout == ""
    lock = subprocess.run(["git", "show", "HEAD:dvc.lock"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert not [name for name in yaml.safe_load(lock)["stages"] if "digits" in name]
