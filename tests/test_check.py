"""`python -m seladv.study.check`: what it refuses, and what it says is missing."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from seladv.study import check, params


@pytest.fixture
def study(root: Path, tmp_path: Path) -> Path:
    """A folder with what the check reads."""
    for name in ("notebooks", "gpu"):
        shutil.copytree(root / name, tmp_path / name)
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(root / name, tmp_path / name)
    return tmp_path


def run(study: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "seladv.study.check"], cwd=study, capture_output=True, text=True)


def test_writes_what_the_stages_depend_on(study: Path) -> None:
    assert run(study).returncode == 0
    written = {str(path.relative_to(study)) for path in (study / "build").rglob("*.txt")}
    stages = yaml.safe_load((study / "dvc.yaml").read_text())["stages"]
    named = {dep for stage in stages.values() for dep in stage.get("deps", []) if dep.startswith("build/")}
    arms = {arm for protocol in params.check(study / "params.yaml").values() for arm in protocol.arms}
    assert written == {dep.replace("${item.arm}", arm) for dep in named for arm in arms}


def test_refuses_in_one_line(study: Path) -> None:
    path = study / "params.yaml"
    path.write_text(path.read_text().replace("- margin-50", "- marjin-50", 1))
    done = run(study)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "digits.arms" in line
    assert "marjin-50" in line
    assert not (study / "build").exists()


def test_missing_runs(study: Path) -> None:
    protocols = params.check(study / "params.yaml")
    lines = {line.split(":")[0]: line for line in check.missing(study, protocols)}
    assert lines["digits"] == "digits: 18 of 18 runs are missing"
    assert "want of a GPU" in lines["cifar10"]
    assert "want of a GPU" not in lines["mnist"]


def test_hours_from_the_record(study: Path) -> None:
    protocols = params.check(study / "params.yaml")
    taken = {"training": {"cost": {"epoch_seconds": 3000.0}}, "evaluation": {"seconds": 600.0}}
    recorded = study / "results/first/metrics/mnist/full-0.json"
    recorded.parent.mkdir(parents=True)
    recorded.write_text(json.dumps(taken))
    (line,) = (line for line in check.missing(study, protocols) if line.startswith("mnist:"))
    assert "18 of 18 runs are missing, about 18 hours" in line  # an hour each, the unknown ones as the known
    own, auto = (study / "results" / kind / "mnist/full-0.json" for kind in ("metrics", "autoattack"))
    for path, content in (
        (own, taken),
        (auto, {"members": {"apgd-ce": {"seconds": 600.0}, "square": {"seconds": 1200.0}}}),
    ):
        (line,) = (line for line in check.missing(study, protocols) if line.startswith("mnist:"))
        assert "18 of 18" in line  # a run without AutoAttack is not complete
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(content))
    (line,) = (line for line in check.missing(study, protocols) if line.startswith("mnist:"))
    assert "17 of 18 runs are missing, about 26 hours" in line  # an hour and a half each


def test_claims_see_the_gpu_results(study: Path) -> None:
    run(study)
    claims = study / "build/code/5-claims.txt"
    before = claims.read_text()
    new = study / "results/metrics/cifar10/full-0.json"
    new.parent.mkdir(parents=True)
    new.write_text("{}")
    run(study)
    assert claims.read_text() != before


def test_weights_are_a_dependency(study: Path) -> None:
    """A file to start from is refused where it is missing, and where changing it would train nothing again."""
    path = study / "params.yaml"
    path.write_text(path.read_text().replace("  model: digits-cnn", "  weights: start.pth\n  model: digits-cnn"))
    assert "digits.weights = 'start.pth': there is no such file below" in run(study).stderr
    (study / "start.pth").touch()
    assert run(study).stderr == "digits.weights: add ${digits.weights} to the deps of train-digits in dvc.yaml\n"
    pipeline = (study / "dvc.yaml").read_text()
    old = "      - build/code/2-train/${item.arm}.txt\n"
    (study / "dvc.yaml").write_text(pipeline.replace(old, old + "      - ${digits.weights}\n", 1))
    assert run(study).returncode == 0


NAMES = ["my.photos", "photos v2", "a@b", "a/b", "2024", "ümlaut", "-x", "_x", "a:b", "a=b", "${x}", "'null'"]


@pytest.mark.parametrize("name", NAMES)
def test_names_that_dvc_misreads(study: Path, name: str) -> None:
    path = study / "params.yaml"
    path.write_text(path.read_text().replace("\ncifar10-200:", f"\n{name}:"))
    done = run(study)
    if name == "'null'":  # text, where it is quoted
        assert done.returncode == 0
    else:
        assert "is no name for a protocol; allowed: letters, digits, - and _, a letter first\n" in done.stderr


MISTAKES = [  # in params.yaml → what the line says
    ("  eps: 0.15", "  epsilon: 0.15", "digits.epsilon = 0.15: unknown key; .*; did you mean eps?"),
    ("  batch_size: 64", "  batchsize: 64", "digits.batchsize = 64: unknown key; .*; did you mean batch_size?"),
    ("  lr: 0.001", "  learning_rate: 0.001", "digits.learning_rate = 0.001: unknown key"),
    ("    flip: false", "    flips: false", "unknown key; allowed: crop, flip; did you mean flip?"),
    ("  arms:", "  arm:", "unknown key; .*; did you mean arms?"),
    ("  - margin-50", "  - margn-50", "did you mean margin-50?"),
    ("  - margin-50", "  - Margin-30", "did you mean margin-30?"),
    ("  - margin-50", "  - margin_50", "did you mean margin-50?"),
    ("  - margin-50", "  - gradmach-25", "did you mean gradmatch-25?"),
    ("  - full-k5", "  - full-5k", "did you mean full-k5?"),
    ("  - clean", "  - claen", "did you mean clean?"),
    ("  seeds:\n  - 0\n  - 1\n  - 2", "  seeds: 3", "digits.seeds = 3: it should be a valid list"),
    ("  seeds:\n  - 0\n  - 1\n  - 2", "  seeds: 0-2", "digits.seeds = '0-2': it should be a valid list"),
    ("  seeds:\n  - 0\n  - 1\n  - 2\n", "", "digits.seeds is missing"),
    ("  model: digits-cnn", "  model: digit-cnn", "is allowed, or .*; did you mean digits-cnn?"),
]


@pytest.mark.parametrize(("right", "wrong", "line"), MISTAKES)
def test_mistakes_are_named(study: Path, right: str, wrong: str, line: str) -> None:
    path = study / "params.yaml"
    assert right in path.read_text()
    path.write_text(path.read_text().replace(right, wrong, 1))
    (said,) = run(study).stderr.splitlines()
    assert re.search(line.replace("?", r"\?"), said)
