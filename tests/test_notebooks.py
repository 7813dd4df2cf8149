"""The notebooks as they are committed, and the code that a stage sees of them."""

from pathlib import Path

import nbformat
import pytest

from seladv import lineage, notebooks

ROOT = Path(__file__).parent.parent
COMMITTED = sorted((ROOT / "notebooks").glob("*.ipynb"))


def write(path: Path, *cells: tuple[str, str]) -> Path:
    """A notebook of code cells, each a source and a tag."""
    made = [nbformat.v4.new_code_cell(source, metadata={"tags": [tag] if tag else []}) for source, tag in cells]
    nbformat.write(nbformat.v4.new_notebook(cells=made), path)
    return path


def test_there_are_notebooks() -> None:
    assert [path.stem for path in COMMITTED if path.stem[0].isdigit()] == [
        "1-data",
        "2-train",
        "3-evaluate",
        "3-transfer",
        "4-fidelity",
        "4-results",
        "5-claims",
    ]
    assert [path.stem for path in COMMITTED if not path.stem[0].isdigit()] == ["explore"]


def test_explore_is_for_people_and_no_stage_runs_it_or_the_code_behind_it(root: Path) -> None:
    assert "explore" not in (root / "dvc.yaml").read_text()
    files = {path.name for stage in lineage.STAGES for path in lineage.of_stage(stage)}
    assert not [name for name in files if name.startswith("explore")]


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_committed_notebooks_carry_no_outputs(path: Path) -> None:
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            assert not cell.outputs, f"{path.name} has outputs: clear them before committing"
            assert cell.execution_count is None


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_the_parameters_are_plain_literals(path: Path) -> None:
    cells = nbformat.read(path, as_version=4).cells
    (cell,) = [cell for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    values: dict[str, object] = {}
    exec(cell.source, {"__builtins__": {}}, values)
    assert values
    assert all(isinstance(value, str | int) for value in values.values())


def test_code_is_what_computes_and_nothing_that_shows(tmp_path: Path) -> None:
    path = write(tmp_path / "1-x.ipynb", ("a = 1", "parameters"), ("show(a)", "figure"), ("b = a", ""))
    assert notebooks.code(path) == "a = 1\n\nb = a\n"


def test_a_notebook_without_one_parameters_cell_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="0 cells tagged"):
        notebooks.code(write(tmp_path / "1-x.ipynb", ("a = 1", "")))


def test_a_file_that_is_no_notebook_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "1-x.ipynb"
    path.write_text("half a noteb")
    with pytest.raises(ValueError, match="is not a notebook") as refused:
        notebooks.code(path)
    assert "\n" not in str(refused.value)
