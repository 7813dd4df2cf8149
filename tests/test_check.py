"""`python -m seladv.study.check`: what it refuses, and what it says is missing."""

import json
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
    assert "18 of 18 runs are missing, about 18.0 hours" in line  # an hour each, the unknown ones as the known
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
    assert "17 of 18 runs are missing, about 25.5 hours" in line  # an hour and a half each


def test_claims_see_the_gpu_results(study: Path) -> None:
    run(study)
    claims = study / "build/code/5-claims.txt"
    before = claims.read_text()
    new = study / "results/metrics/cifar10/full-0.json"
    new.parent.mkdir(parents=True)
    new.write_text("{}")
    run(study)
    assert claims.read_text() != before
