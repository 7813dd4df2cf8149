"""The stages, through real `dvc repro` and `make` in a temporary clone: what runs again, and what does not.

One small study for all tests; each start of a stage takes seconds, so the tests count them.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import pytest
import yaml

ROOT = Path(__file__).parents[1]
HEADER = (
    "arm,seeds,clean,clean_ci,robust,robust_ci,robust_minus_full,robust_minus_full_ci,"
    "attack_cost,total_cost,epoch_time,paper_clean,paper_robust"
)
# A large eps: AutoAttack takes long only where images survive.
SMALL = {"epochs": 1, "steps": 2, "eps": 0.25, "seeds": [0], "arms": ["full", "margin-50"]}
KINDS = ("train", "evaluate", "autoattack")


class Study:
    """A clone with a digits protocol cut down to seconds."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def params(self, **changes: Any) -> None:
        path = self.folder / "params.yaml"
        content = yaml.safe_load(path.read_text())
        content["digits"] |= changes
        path.write_text(yaml.safe_dump(content, sort_keys=False))

    def run(self, *command: str, cwd: str = ".") -> subprocess.CompletedProcess[str]:
        here = str(Path(sys.executable).parent)
        env = {**os.environ, "PATH": f"{here}:{os.environ['PATH']}", "PYTHONPATH": str(self.folder), "CI": "1"}
        return subprocess.run(command, cwd=self.folder / cwd, env=env, capture_output=True, text=True)

    def ran(self, *command: str) -> list[str]:
        """The stages that `command` ran, the check left out, which always runs."""
        done = self.run(*command)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return [stage for stage in re.findall(r"Running stage '([^']+)'", done.stdout) if stage != "check"]

    def repro(self) -> list[str]:
        return self.ran("dvc", "repro", "table-digits")

    def stale(self, *stages: str) -> list[str]:
        """Those of `stages` whose dependencies differ after a new check."""
        assert self.run("dvc", "repro", "-q", "check").returncode == 0
        found = self.run("dvc", "status", *stages).stdout
        return [
            stage
            for stage in stages
            if re.search(rf"^{re.escape(stage)}:\n\tchanged deps:\n\t\tmodified:", found, re.M)
        ]

    def rows(self) -> list[str]:
        return pd.read_csv(self.folder / "results/digits.csv")["arm"].tolist()


def clone(folder: Path, source: Path = ROOT) -> Path:
    """A commit of what git tracks or would track in `source`, without tests and published results."""
    command = ["git", "ls-files", "-co", "--exclude-standard", "-z"]
    tracked = subprocess.run(command, cwd=source, check=True, capture_output=True, text=True).stdout.split("\0")
    for name in filter(None, tracked):
        if not name.startswith(("results/", "tests/")) and (source / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source / name, folder / name)
    (folder / ".venv").mkdir()
    (folder / ".venv/.ready").touch()  # so that make installs nothing
    (folder / "dvc.lock").write_text("schema: '2.0'\nstages: {}\n")
    commit(folder)
    return folder


def commit(folder: Path) -> None:
    """All of `folder` as one commit."""
    who = ("-c", "user.name=t", "-c", "user.email=t@t")
    for command in (["init", "-q"], ["add", "-A"], [*who, "commit", "-qm", "t"]):
        subprocess.run(["git", *command], cwd=folder, check=True)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    study = Study(clone(tmp_path_factory.mktemp("study")))
    study.params(**SMALL)
    commit(study.folder)
    runs = [f"{kind}-digits@{arm}-0" for arm in ("full", "margin-50") for kind in KINDS]
    assert sorted(study.repro()) == sorted(["data-digits", *runs, "table-digits"])
    return study


def test_table(study: Study) -> None:
    assert (study.folder / "results/digits.csv").read_text().startswith(HEADER)
    assert (study.folder / "results/figures/digits.png").read_bytes().startswith(b"\x89PNG")
    assert study.rows() == ["full", "margin-50"]
    metrics = json.loads((study.folder / "results/metrics/digits/margin-50-0.json").read_text())
    assert {"torch", "revision", "device", "threads", "precision", "history", "cost"} <= set(metrics["training"])
    auto = json.loads((study.folder / "results/autoattack/digits/margin-50-0.json").read_text())
    assert auto["subset"] == metrics["evaluation"]["subset"]
    assert {"torch", "revision", "device", "threads"} <= set(auto)
    revision = study.run("git", "rev-parse", "--short=12", "HEAD").stdout.strip()  # dvc.lock and results do not count
    assert [made["revision"] for made in (metrics["training"], metrics["evaluation"], auto)] == [revision] * 3


def test_two_executions_are_equal(study: Study) -> None:
    path = study.folder / "results/digits.ipynb"
    before = path.read_bytes()
    assert study.ran("dvc", "repro", "--single-item", "--force", "table-digits") == ["table-digits"]
    assert path.read_bytes() == before


def test_demo_changes_no_tracked_file_but_the_lock(study: Study) -> None:
    assert study.run("git", "status", "--porcelain").stdout == " M dvc.lock\n"


def test_every_figure_cell_shows_something(study: Study) -> None:
    executed = sorted((study.folder / "runs/digits").glob("*.ipynb"))
    assert len(executed) == 8
    for path in executed:
        for cell in nbformat.read(path, as_version=4).cells:
            if "figure" in cell.metadata.get("tags", []):
                assert cell.outputs, f"{path.name}: {cell.source}"
                assert not [output for output in cell.outputs if output.output_type == "error"]


def test_nothing_runs_twice(study: Study) -> None:
    assert study.repro() == []


def test_words_and_looks_make_nothing_stale(study: Study) -> None:
    loop, attack = study.folder / "seladv/training/train.py", study.folder / "seladv/attack.py"
    before = {path: path.read_bytes() for path in (loop, attack)}
    loop.write_text(loop.read_text().replace('"""Selective', '"""The loop of selective') + "\n# a comment\n")
    attack.write_bytes(attack.read_bytes().replace(b"\n", b"\r\n"))
    for path in (study.folder / "notebooks").glob("*.ipynb"):
        notebook = nbformat.read(path, as_version=4)
        notebook.metadata["widgets"] = {"seen": "today"}
        notebook.cells.append(nbformat.v4.new_markdown_cell("a thought"))
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs = [nbformat.v4.new_output("stream", text="42")]
        nbformat.write(notebook, path)
    assert study.repro() == []
    for path, content in before.items():
        path.write_bytes(content)


def test_a_changed_constant_is_seen(study: Study) -> None:
    path = study.folder / "seladv/selection/margin.py"
    before = path.read_text()
    path.write_text(before.replace("topk(2,", "topk(3,"))
    stale = study.stale("train-digits@margin-50-0", "train-digits@full-0")
    path.write_text(before)
    assert stale == ["train-digits@margin-50-0"]


def test_a_new_ratio_in_a_clone_without_networks(study: Study, tmp_path: Path) -> None:
    """`make` trains and evaluates the new arm alone, and prints the table; taken out again, its row is gone."""
    other = Study(clone(tmp_path, study.folder))
    shutil.copytree(study.folder / "results", tmp_path / "results")
    shutil.copy(study.folder / "dvc.lock", tmp_path / "dvc.lock")
    other.params(arms=[*SMALL["arms"], "margin-30"])
    done = other.run("make", "table-digits")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    said = done.stdout + (tmp_path / "runs/digits/margin-30-0.log").read_text()
    ran = set(re.findall(r"Running stage '([^']+)'", said)) - {"check"}
    new = {f"{kind}-digits@margin-30-0" for kind in KINDS}
    assert ran <= {"data-digits", "table-digits", *new}
    assert [path.name for path in (tmp_path / "models/digits").glob("*-*")] == ["margin-30-0"]
    assert "| margin-30 " in done.stdout
    assert other.rows() == ["full", "margin-50", "margin-30"]
    assert re.search(r"margin-30-0\.json: made by \w+-dirty, uncommitted", done.stdout + done.stderr)
    assert "uncommitted code (seed 0)" in done.stdout  # params.yaml is not committed
    other.params(**SMALL)
    assert other.ran("dvc", "repro", "--allow-missing", "table-digits") == ["table-digits"]
    assert other.rows() == ["full", "margin-50"]
    assert (tmp_path / "results/metrics/digits/margin-30-0.json").exists()  # stale, and no longer a row


def test_by_hand_from_the_notebooks_folder(study: Study) -> None:
    command = ["papermill", "2-train.ipynb", "../runs/lab.ipynb", "-k", "python3", "--no-progress-bar"]
    done = study.run(*command, "-p", "arm", "full", cwd="notebooks")
    assert done.returncode == 0, done.stderr[-3000:]
    assert (study.folder / "runs/lab/models/digits/full-0/last.safetensors").exists()
    assert study.repro() == []


def test_a_broken_metrics_file_is_named(study: Study) -> None:
    path = study.folder / "results/metrics/digits/full-0.json"
    whole = path.read_text()
    path.write_text(whole[:100])
    done = study.run("papermill", "-k", "python3", "--no-progress-bar", "notebooks/4-results.ipynb", "runs/lab.ipynb")
    path.write_text(whole)
    assert done.returncode != 0
    assert "full-0.json is not whole" in done.stderr.strip().splitlines()[-1]


def test_wrong_params_stop_before_any_work(study: Study) -> None:
    study.params(arms=["full", "marjin-50"])
    done = study.run("dvc", "repro", "table-digits")
    study.params(**SMALL)
    assert done.returncode != 0
    assert re.findall(r"Running stage '([^']+)'", done.stdout) == ["check"]
    (line,) = (line for line in done.stderr.splitlines() if "marjin-50" in line)
    assert "digits.arms" in line


def test_a_diverging_run_leaves_nothing(study: Study) -> None:
    study.params(arms=["full"], seeds=[1], lr=1e30)
    done = study.run("dvc", "repro", "table-digits")
    study.params(**SMALL, lr=0.001)
    assert done.returncode != 0
    assert "StudyError: the loss is" in done.stderr + done.stdout
    assert not list((study.folder / "models/digits").glob("full-1*"))
    assert study.repro() == []
    assert study.rows() == ["full", "margin-50"]


def test_side_branches_and_explore(study: Study) -> None:
    """Timing, transfer and fidelity of the small study, and the notebook to explore it."""
    study.run("sed", "-i", "s/of: gradmatch-50-0]/of: margin-50-0]/", "dvc.yaml")
    stages = ["timing-digits", "transfer-digits", "fidelity-digits"]
    assert study.ran("dvc", "repro", "--single-item", *stages) == stages
    timing = json.loads((study.folder / "results/timing/digits.json").read_text())
    assert {len(rounds) for rounds in timing["epoch_seconds"].values()} == {5}
    transfer = json.loads((study.folder / "results/transfer/digits.json").read_text())
    assert len(transfer["pairs"]) == 4
    # Without a kernel: nbclient at times waits for ever on the messages of `interact` (jupyter/nbclient issue 312).
    done = study.run("env", "MPLBACKEND=agg", "ipython", "--no-banner", "notebooks/explore.ipynb")
    assert "Traceback" not in done.stdout + done.stderr, done.stdout[-3000:]
    assert done.stdout.count("<Figure size") == done.stdout.count("interactive(children") == 4


def test_claims(study: Study) -> None:
    """Of a protocol that is published: the small study's results under another name, since the digits are a demo."""
    before = (study.folder / "params.yaml").read_text()
    for kind in ("metrics", "autoattack"):
        shutil.copytree(study.folder / "results" / kind / "digits", study.folder / "results" / kind / "mnist")
    content = yaml.safe_load(before)
    content["mnist"] |= {"seeds": [0], "arms": SMALL["arms"], "evaluate": content["digits"]["evaluate"]}
    (study.folder / "params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    timed = {"protocol": "mnist", "implementation": "seladv", "batch_size": 64}
    timed |= {"machine": {"device": "a CPU", "threads": 2}, "epoch_seconds": {"full": [4.0, 2.0, 9.0]}}
    (study.folder / "results/timing").mkdir(exist_ok=True)
    (study.folder / "results/timing/mnist.json").write_text(json.dumps(timed))
    claims = ["papermill", "-k", "python3", "--no-progress-bar", "notebooks/5-claims.ipynb", "runs/5-claims.ipynb"]
    done = study.run(*claims, "-r", "output", "runs/claims")
    (study.folder / "params.yaml").write_text(before)
    for kind in ("metrics", "autoattack"):
        shutil.rmtree(study.folder / "results" / kind / "mnist")
    (study.folder / "results/timing/mnist.json").unlink()
    assert done.returncode == 0, done.stderr[-3000:]
    rows = pd.read_csv(study.folder / "runs/claims/claims.csv").set_index(["claim", "arm"])
    assert set(rows["protocol"]) == {"mnist"}
    runs = pd.read_csv(study.folder / "results/digits.csv").set_index("arm")
    for claim, column in (("C1", "autoattack_50"), ("C1-pgd", "robust")):
        difference = runs.loc["margin-50", column] - runs.loc["full", column]
        assert rows.loc[(claim, "margin-50"), "ours"] == pytest.approx(difference, abs=0.002)
    outputs = [
        "".join(data)
        for cell in nbformat.read(study.folder / "runs/5-claims.ipynb", as_version=4).cells
        for output in cell.get("outputs", [])
        for data in output.get("data", {}).values()
    ]
    assert any(text.startswith("**MNIST**, mnist-cnn, 1 epochs") for text in outputs)
    assert any("4 (2 to 9)" in text for text in outputs)
