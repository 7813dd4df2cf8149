"""A result depends on the files that can alter it: its own criterion's, and no other's."""

import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from seladv import lineage
from seladv.selection import CRITERIA


def names(paths: list[Path]) -> set[str]:
    return {str(path.relative_to(lineage.PACKAGE)) for path in paths}


def test_training_depends_on_the_loop_and_not_on_the_registry_or_any_criterion() -> None:
    files = names(lineage.of_stage("2-train"))
    assert {"train.py", "run.py", "attack.py", "selector.py", "objective.py", "optimizers.py"} < files
    assert not any(name.startswith(("criteria", "selection", "ghost", "plots", "evaluate")) for name in files)


def test_an_arm_depends_on_its_criterion_and_what_that_imports() -> None:
    assert names(lineage.of_arm("margin-50")) == {"criteria/margin.py"}
    assert names(lineage.of_arm("easy-50")) == {"criteria/easy.py", "criteria/margin.py"}
    assert {"criteria/gradmatch.py", "ghost.py"} < names(lineage.of_arm("gradmatch-25"))
    assert names(lineage.of_arm("margin-25-warmup")) == {"criteria/margin.py", "criteria/random.py"}
    assert lineage.of_arm("full") == lineage.of_arm("clean") == lineage.of_arm("nfgsm") == []


def test_every_criterion_is_some_arms_file() -> None:
    found = {name for criterion in CRITERIA for name in names(lineage.of_arm(f"{criterion}-50"))}
    assert {f"criteria/{path.name}" for path in (lineage.PACKAGE / "criteria").glob("[a-z]*.py")} <= found


@pytest.mark.parametrize("notebook", ["3-evaluate", "3-transfer"])
def test_judging_depends_on_the_attacks_and_not_on_the_loop_or_the_settings(notebook: str) -> None:
    files = names(lineage.of_stage(notebook))
    assert {"attack.py", "attacks.py", "checklist.py", "curves.py", "record.py", "models.py", "resnet.py"} < files
    assert not files & {"train.py", "run.py", "objective.py", "arms.py", "params.py", "protocol.py", "plots.py"}


def test_the_tables_depend_on_the_statistics_and_on_what_draws() -> None:
    assert "plots.py" not in names(lineage.of_stage("4-fidelity"))  # a new plot costs no study of the scores
    assert {"stats.py", "plots.py", "claims.py", "verdicts.py", "report.py"} < names(lineage.of_stage("4-results"))


def test_every_arm_of_the_study_gets_its_file(root: Path, tmp_path: Path) -> None:
    lineage.write(root / "params.yaml", root / "notebooks", tmp_path)
    full = (tmp_path / "2-train/full.txt").read_text().splitlines()
    margin = (tmp_path / "2-train/margin-50.txt").read_text().splitlines()
    assert [line for line in margin if line not in full] == [margin[-1]]
    digest, name = margin[-1].split()
    assert (len(digest), name) == (64, "seladv/criteria/margin.py")
    assert full[0].endswith("  notebooks/2-train.ipynb, its code")


def test_saving_a_notebook_changes_nothing_and_another_line_of_code_does(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "notebooks", tmp_path / "notebooks")
    path = tmp_path / "notebooks/3-evaluate.ipynb"

    def digest() -> str:
        lineage.write(root / "params.yaml", tmp_path / "notebooks", tmp_path / "code")
        return (tmp_path / "code/3-evaluate.txt").read_text()

    before = digest()
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.append(nbformat.v4.new_markdown_cell("a thought"))
    nbformat.write(notebook, path)
    assert digest() == before
    notebook.cells.append(nbformat.v4.new_code_cell("a = 1"))
    nbformat.write(notebook, path)
    assert digest() != before


def test_a_folder_without_the_notebooks_is_one_line(root: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "seladv.lineage", root / "params.yaml", tmp_path, tmp_path / "code"],
        capture_output=True, text=True, check=False, cwd=root,
    )  # fmt: skip
    assert done.returncode == 1
    assert "1-data.ipynb" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
