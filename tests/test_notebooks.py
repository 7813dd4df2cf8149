"""The notebooks as git keeps them."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import nbformat
import pytest

from seladv.report.publish import publish
from seladv.study import digests
from seladv.study.places import StudyError

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
notebooks = pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])


@notebooks
def test_no_outputs(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not [cell.source for cell in code if cell.outputs or cell.execution_count]
    assert notebook.metadata.kernelspec.name == "python3"


@notebooks
def test_exploring_touches_no_result(path: Path) -> None:
    """By hand, every notebook writes to runs/lab."""
    cells = nbformat.read(path, as_version=4).cells
    (defaults,) = (cell.source for cell in cells if "parameters" in cell.metadata.get("tags", []))
    assert path.stem == "explore" or 'output = "runs/lab/' in defaults


def test_every_stage_notebook_is_digested() -> None:
    assert set(digests.NOTEBOOKS) == {path.stem for path in NOTEBOOKS} - {"explore"}


def executed(path: Path, outputs: list[dict[str, Any]]) -> Path:
    """What papermill leaves of a notebook: its cells with outputs, times, and a cell of its own."""
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.insert(1, nbformat.v4.new_code_cell("seed = 1", metadata={"tags": ["injected-parameters"]}))
    notebook.metadata["papermill"] = {"start_time": "now", "output_path": "/here"}
    for cell in notebook.cells:
        cell.metadata["papermill"] = {"duration": 1.0}
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [nbformat.from_dict(output) for output in outputs], 7
    target = path.with_name("executed.ipynb")
    nbformat.write(notebook, target)
    return target


TEXT = {"output_type": "stream", "name": "stdout", "text": "42"}
ERROR = {"output_type": "error", "ename": "E", "evalue": "", "traceback": []}


def test_published_copy_adds_outputs_alone(tmp_path: Path) -> None:
    source = tmp_path / "source.ipynb"
    source.write_text((ROOT / "notebooks/4-results.ipynb").read_text())
    publish(source, executed(source, [TEXT]), tmp_path / "published.ipynb")
    published = json.loads((tmp_path / "published.ipynb").read_text())
    code = [cell for cell in published["cells"] if cell["cell_type"] == "code"]
    assert all("".join(output["text"]) == "42" for cell in code for output in cell["outputs"])
    assert all(len(cell["outputs"]) == 1 for cell in code)
    for cell in code:
        cell["outputs"] = []
    assert published == json.loads(source.read_text())


def test_failed_execution_is_not_published(tmp_path: Path) -> None:
    source = tmp_path / "source.ipynb"
    source.write_text((ROOT / "notebooks/4-results.ipynb").read_text())
    with pytest.raises(StudyError, match="no finished execution"):
        publish(source, executed(source, [ERROR]), tmp_path / "published.ipynb")
    assert not (tmp_path / "published.ipynb").exists()


def test_published_notebooks_are_small() -> None:
    published = subprocess.run(["git", "ls-files", "results/*.ipynb"], cwd=ROOT, capture_output=True, text=True)
    paths = [ROOT / name for name in published.stdout.split()]
    assert {path.stem for path in paths} >= {"claims", "mnist", "cifar10-small"}
    assert [path for path in paths if path.stat().st_size > 10**6] == []


def test_page_needs_no_network(tmp_path: Path) -> None:
    done = subprocess.run(
        ["make", "-n", "-o", ".venv/.ready", "page"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    command = done.stdout.split("echo")[0].replace("--output-dir build", f"--output-dir '{tmp_path}'")
    subprocess.run(["bash", "-c", command], cwd=ROOT, check=True, capture_output=True)
    page = (tmp_path / "page.html").read_text()
    assert "margin-50" in page
    assert re.findall(r"(?:src|href)=[\"'](?:https?:)?//[^\"']*", page) == []
    assert not re.search(r"@import|url\([\"']?https?:", page)
