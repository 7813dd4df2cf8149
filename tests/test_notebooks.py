"""The notebooks as git keeps them."""

from pathlib import Path

import nbformat
import pytest

from seladv.study import digests

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
