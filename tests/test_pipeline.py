"""The stages, through a real `dvc repro` in a temporary clone: what runs again, and what does not."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import pytest
import yaml

ROOT = Path(__file__).parent.parent
JUDGED = yaml.safe_load((ROOT / "params.yaml").read_text())["digits"]["evaluate"] | {"autoattack": 0}
SMALL = {"epochs": 1, "steps": 2, "seeds": [0], "arms": ["full", "margin-50"], "evaluate": JUDGED}


class Study:
    """A clone with a digits protocol cut down to seconds."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        tracked = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
        )
        for name in filter(None, tracked.stdout.split("\0")):
            if name.startswith(("results/", "tests/")) or name == "dvc.lock" or not (ROOT / name).exists():
                continue
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
        (folder / "results/fidelity").mkdir(parents=True)  # which git has, with other protocols' results
        for command in (
            ["init", "-q"],
            ["add", "-A"],
            ["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "t"],
        ):
            subprocess.run(["git", *command], cwd=folder, check=True)
        self.params(**SMALL)

    def params(self, protocol: str = "digits", **changes: Any) -> None:
        path = self.folder / "params.yaml"
        content = yaml.safe_load(path.read_text())
        content[protocol] |= changes
        path.write_text(yaml.safe_dump(content))

    def start(self, *command: str, cwd: str = ".") -> subprocess.Popen[str]:
        here = str(Path(sys.executable).parent)
        env = {**os.environ, "PATH": f"{here}:{os.environ['PATH']}", "PYTHONPATH": str(self.folder), "CI": "1"}
        del env["PYTEST_CURRENT_TEST"]  # a stage's server serves those of its own environment alone
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, cwd=self.folder / cwd, env=env, stdout=pipe, stderr=pipe, text=True, start_new_session=True
        )

    def run(self, *command: str, cwd: str = ".") -> subprocess.CompletedProcess[str]:
        started = self.start(*command, cwd=cwd)
        out, err = started.communicate()
        return subprocess.CompletedProcess(command, started.returncode, out, err)

    def repro(self, *arguments: str) -> list[str]:
        """The stages that ran."""
        done = self.run("dvc", "repro", *(arguments or ("table-digits",)))
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return re.findall(r"Running stage '([^']+)'", done.stdout)

    def rows(self) -> list[str]:
        return pd.read_csv(self.folder / "results/digits.csv")["arm"].tolist()


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    study = Study(tmp_path_factory.mktemp("study"))
    ran = study.repro()
    assert ran[0] == "check"
    assert ran[-1] == "table-digits"
    assert {"data-digits", "train-digits@full-0", "evaluate-digits@margin-50-0"} < set(ran)
    assert not [stage for stage in ran if "mnist" in stage]
    return study


@pytest.fixture
def reset(study: Study) -> Callable[[], None]:
    """Puts the protocol back as the module's first run left it."""
    return lambda: study.params(**SMALL)


def test_the_table_has_the_contracts_columns_and_every_figure_is_there(study: Study) -> None:
    header = (study.folder / "results/digits.csv").read_text().splitlines()[0]
    assert header == (
        "arm,seeds,clean,clean_ci,robust,robust_ci,robust_minus_full,robust_minus_full_ci,"
        "attack_cost,total_cost,epoch_time,paper_clean,paper_robust"
    )
    names = (
        "accuracy",
        "robust-against-budget",
        "robust-against-cost",
        "training-curves",
        "cost-split",
        "selected-classes",
    )
    for name in names:
        for ending, magic in (("png", b"\x89PNG"), ("svg", b"<?xml")):
            assert (study.folder / f"results/figures/digits/{name}.{ending}").read_bytes().startswith(magic)
    metrics = json.loads((study.folder / "results/metrics/digits/margin-50-0.json").read_text())
    assert {"torch", "revision", "device", "threads", "precision", "history", "cost"} <= set(metrics["training"])


def test_the_claims_are_written_for_the_protocols_that_have_results(study: Study) -> None:
    assert study.repro("--single-item", "claims") == ["claims"]
    rows = pd.read_csv(study.folder / "results/claims.csv").set_index(["claim", "arm"])
    assert set(rows["protocol"]) == {"digits"}
    assert rows.loc[("C3", "margin-50"), "verdict"] == "supported"  # half of the passes, whatever else
    assert rows.loc[("C1", "margin-50"), "verdict"] == "undecided"  # one seed
    assert rows.loc[("C1", "gradmatch-50"), "verdict"] == "not run"
    assert "| ratio | digits | margin-25 | – | not run |" in (study.folder / "results/discrepancies.md").read_text()
    assert study.repro("--single-item", "claims") == []


def test_every_figure_cell_shows_something(study: Study) -> None:
    executed = sorted((study.folder / "runs/digits").glob("*.ipynb"))
    assert len(executed) == 7
    for path in executed:
        for cell in nbformat.read(path, as_version=4).cells:
            if "figure" in cell.metadata.get("tags", []):
                kinds = {kind for output in cell.outputs for kind in output.get("data", {})}
                assert kinds & {"image/png", "text/html", "text/markdown"}, f"{path.name}: {cell.source}"


def test_nothing_runs_twice(study: Study) -> None:
    assert study.repro() == []


def test_saving_notebooks_in_jupyterlab_retrains_nothing(study: Study) -> None:
    for path in (study.folder / "notebooks").glob("*.ipynb"):
        notebook = nbformat.read(path, as_version=4)
        notebook.metadata["widgets"] = {"seen": "today"}
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.execution_count = 7
                cell.outputs = [nbformat.v4.new_output("stream", text="42")]
        notebook.cells.append(nbformat.v4.new_markdown_cell("a thought"))
        nbformat.write(notebook, path)
    assert study.repro() == ["check"]


def test_a_changed_cell_retrains_and_a_changed_figure_cell_does_not(study: Study) -> None:
    path = study.folder / "notebooks/2-train.ipynb"
    before = path.read_text()
    notebook = nbformat.read(path, as_version=4)
    shown = next(cell for cell in notebook.cells if "figure" in cell.metadata.get("tags", []))
    shown.source += "\nprint('seen')"
    nbformat.write(notebook, path)
    assert study.repro() == ["check"]
    computing = next(cell for cell in notebook.cells if "record.summary" in cell.source)
    computing.source += "\nprint('computed')"
    nbformat.write(notebook, path)
    planned = study.run("dvc", "repro", "check")
    assert planned.returncode == 0
    assert "train-digits@full-0" in study.run("dvc", "status", "train-digits@full-0").stdout
    path.write_text(before)
    assert study.repro() == []  # even `check` comes out of DVC's run cache


def test_running_a_notebook_from_its_own_folder_leaves_the_study_untouched(study: Study) -> None:
    for name in ("2-train", "3-evaluate", "4-results"):
        command = ["papermill", f"{name}.ipynb", "../runs/lab.ipynb", "-k", "python3", "--no-progress-bar"]
        done = study.run(*command, *([] if name == "4-results" else ["-p", "arm", "full"]), cwd="notebooks")
        assert done.returncode == 0, done.stderr[-3000:]
    assert (study.folder / "runs/lab/models/digits/full-0/last.safetensors").exists()
    assert (study.folder / "runs/lab/results/digits.csv").exists()
    assert study.repro() == []


def test_a_ratio_added_trains_only_itself_and_a_ratio_removed_trains_nothing(
    study: Study, reset: Callable[[], None]
) -> None:
    study.params(arms=[*SMALL["arms"], "margin-30"])
    ran = study.repro()
    of_all = {"check", "transfer-digits", "timing-digits", "table-digits"}
    assert set(ran) == of_all | {"train-digits@margin-30-0", "evaluate-digits@margin-30-0"}
    assert ran[-1] == "table-digits"
    assert study.rows() == ["full", "margin-50", "margin-30"]
    reset()
    assert set(study.repro()) <= of_all
    assert study.rows() == ["full", "margin-50"]
    assert (study.folder / "results/metrics/digits/margin-30-0.json").exists()  # stale, and no longer a row


def test_lanes_do_the_runs_that_are_missing_and_leave_the_table_to_dvc(study: Study, reset: Callable[[], None]) -> None:
    study.params(seeds=[0, 3])
    done = study.run("python", "-m", "seladv.lanes", "digits", "2")
    assert done.returncode == 0, done.stderr[-3000:]
    ran = re.findall(r"Running stage '([^']+)'", done.stdout)
    of_runs = [f"{kind}-digits@{arm}-3" for kind in ("evaluate", "train") for arm in ("full", "margin-50")]
    assert sorted(ran) == ["check", *of_runs]
    assert set(study.repro()) == {"transfer-digits", "timing-digits", "table-digits"}
    reset()
    study.repro()


def test_a_run_that_fails_is_told_and_the_others_are_done(study: Study, reset: Callable[[], None]) -> None:
    study.params(seeds=[2])
    in_the_way = study.folder / "runs/digits/3-evaluate-full-2.ipynb"
    in_the_way.mkdir()
    done = study.run("python", "-m", "seladv.lanes", "digits", "1")
    in_the_way.rmdir()
    assert done.returncode == 1
    assert "3-evaluate-full-2.ipynb" in done.stderr.splitlines()[-2]
    assert done.stderr.splitlines()[-1].startswith("A stage failed")
    assert (study.folder / "results/metrics/digits/margin-50-2.json").exists()  # of the same lane, and after it
    assert study.run("dvc", "repro", "--single-item", "train-digits@full-2").stdout.endswith("up to date.\n")
    reset()
    study.repro()


def test_ctrl_c_ends_the_lanes_and_what_is_done_is_kept(study: Study, reset: Callable[[], None]) -> None:
    study.params(seeds=[4, 5, 6])
    lanes = study.start("python", "-m", "seladv.lanes", "digits", "2")
    assert lanes.stdout
    ran = ""
    while "Running stage 'evaluate" not in ran:
        ran += (line := lanes.stdout.readline())
        assert line, "the lanes have ended"
    os.killpg(lanes.pid, signal.SIGINT)  # as a terminal does: every process in the foreground gets it
    out, err = lanes.communicate(timeout=120)
    assert lanes.returncode == 1
    assert err.splitlines()[-1].startswith("Stopped.")
    assert (
        len(re.findall("Running stage '(?:train|evaluate)", ran + out)) <= 4
    )  # of 12: two lanes, each at its first run
    (trained,) = re.findall(r"Running stage 'evaluate-digits@([^']+)'", ran)
    assert f"train-digits@{trained}" in yaml.safe_load((study.folder / "dvc.lock").read_text())["stages"]
    reset()
    study.repro()


def test_another_protocols_change_runs_nothing_here(study: Study) -> None:
    study.params("mnist", arms=["full", "margin-25"], lr=0.002)
    assert study.repro() == ["check"]


def test_a_new_plot_retrains_nothing(study: Study) -> None:
    with (study.folder / "seladv/plots.py").open("a") as file:
        file.write("\n# another colour\n")
    assert study.repro() == ["check", "table-digits"]


def test_a_broken_metrics_file_is_named_and_not_taken_for_whole(study: Study) -> None:
    path = study.folder / "results/metrics/digits/full-0.json"
    whole = path.read_text()
    path.write_text(whole[:100])
    done = study.run("python", "-m", "seladv.stage", "notebooks/4-results.ipynb", "runs/broken.ipynb")
    path.write_text(whole)
    assert done.returncode != 0
    assert "full-0.json is not whole" in done.stderr.splitlines()[-1]
    assert study.repro() == []


def test_wrong_params_stop_before_any_work(study: Study, reset: Callable[[], None]) -> None:
    study.params(arms=["full", "marjin-50"])
    done = study.run("dvc", "repro", "table-digits")
    assert done.returncode != 0
    assert re.findall(r"Running stage '([^']+)'", done.stdout) == ["check"]
    named = [line for line in done.stderr.splitlines() if "marjin-50" in line and "digits.arms" in line]
    assert len(named) == 1
    assert "margin" in named[0]
    reset()
    assert not [stage for stage in study.repro() if stage.startswith(("train", "evaluate"))]


def test_a_diverging_run_offers_nothing_to_the_next_stage(study: Study, reset: Callable[[], None]) -> None:
    study.params(arms=["full"], seeds=[1], lr=1e30)
    done = study.run("dvc", "repro", "table-digits")
    assert done.returncode != 0
    assert "epoch 1, batch" in done.stderr + done.stdout
    assert not list((study.folder / "models/digits").glob("full-1*"))
    assert not (study.folder / "results/metrics/digits/full-1.json").exists()
    study.params(lr=0.001)
    reset()
    assert "evaluate-digits@full-1" not in study.repro()
