"""A change that cannot alter a result makes nothing stale; one that can, does."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from seladv.study import arms, digests
from seladv.study.places import StudyError

SOURCE = '''"""What it is."""
SIZE = 3


def double(x):
    """Twice x."""
    return SIZE * x
'''


@pytest.mark.parametrize(
    "changed",
    [
        SOURCE.replace("SIZE = 3", "SIZE = 3  # a comment"),
        SOURCE.replace("Twice x.", "Twice x, in other words."),
        SOURCE.replace('    """Twice x."""\n', ""),
        SOURCE.replace("\n\n\n", "\n\n\n\n# a comment\n"),
        SOURCE.replace("\n", "\r\n"),
        SOURCE.replace("SIZE * x", "(SIZE * x)"),
    ],
)
def test_same_meaning(changed: str) -> None:
    assert changed != SOURCE
    assert digests.meaning(changed) == digests.meaning(SOURCE)


@pytest.mark.parametrize(
    "changed", [SOURCE.replace("3", "4"), SOURCE.replace("SIZE * x", "SIZE + x"), SOURCE + "x = 1"]
)
def test_other_meaning(changed: str) -> None:
    assert digests.meaning(changed) != digests.meaning(SOURCE)


def notebook(path: Path, *cells: tuple[str, str, str]) -> Path:
    """A notebook of (kind, source, tag) cells, one tagged `parameters` in front."""
    content = [("code", "seed = 0", "parameters"), *cells]
    listed = [{"cell_type": kind, "metadata": {"tags": [tag]}, "source": source} for kind, source, tag in content]
    path.write_text(json.dumps({"cells": listed, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
    return path


WORK = ("code", "%xmode Minimal\nimport math\nprint(math.pi)  # a comment", "")


def test_notebook_code(tmp_path: Path) -> None:
    code = digests.notebook_code(notebook(tmp_path / "a.ipynb", WORK))
    shown = notebook(tmp_path / "b.ipynb", ("markdown", "# Words", ""), WORK, ("code", "plot()", "figure"))
    assert digests.notebook_code(shown) == code
    assert "seed" not in code
    more = notebook(tmp_path / "c.ipynb", WORK, ("code", "print(math.e)", ""))
    assert digests.notebook_code(more) != code


def test_outputs_do_not_count(tmp_path: Path) -> None:
    path = notebook(tmp_path / "a.ipynb", WORK)
    code = digests.notebook_code(path)
    content = json.loads(path.read_text())
    content["metadata"]["widgets"] = {"seen": "today"}
    for cell in content["cells"]:
        cell |= {"execution_count": 7, "outputs": [{"output_type": "stream", "name": "stdout", "text": "42"}]}
    path.write_text(json.dumps(content, indent=4))
    assert digests.notebook_code(path) == code


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"cells": [3]}', '{"cells": []}'])
def test_no_notebook(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.ipynb"
    path.write_text(content)
    with pytest.raises(StudyError, match=r"a\.ipynb") as error:
        digests.notebook_code(path)
    assert "\n" not in str(error.value)


def test_cell_that_is_no_python(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="no Python"):
        digests.notebook_code(notebook(tmp_path / "a.ipynb", ("code", "def (:", "")))


def names(lines: list[str]) -> set[str]:
    return {line.split()[1].removeprefix("seladv/") for line in lines}


def test_training_depends_on_its_criterion(root: Path) -> None:
    training = names(digests.of_notebook(root / "notebooks/2-train.ipynb"))
    assert {
        "attack.py",
        "gradient.py",
        "frozen.py",
        "training/train.py",
        "training/run.py",
        "data/images.py",
    } <= training
    assert not {name for name in training if name.startswith(("report/", "evaluation/"))}
    families = {f"selection/{file}.py" for file, *_ in arms.CRITERIA.values()}
    assert not training & families
    assert families & names(digests.of_arm("margin-50")) == {"selection/margin.py"}
    assert names(digests.of_arm("margin-50-warmup")) & families == {"selection/margin.py", "selection/random.py"}
    assert "selection/topk.py" in names(digests.of_arm("random-50"))
    exact = names(digests.of_arm("gradmatch-50"))
    assert {"selection/gradmatch.py", "selection/gradmatch_layers.py"} <= exact
    assert digests.of_arm("full") == []


def test_no_result_depends_on_a_plot_or_the_registry(root: Path) -> None:
    for notebook in ("1-data", "2-train", "3-evaluate", "3-autoattack", "3-transfer"):
        found = names(digests.of_notebook(root / "notebooks" / f"{notebook}.ipynb"))
        assert not found & {"report/plots.py", "selection/__init__.py", "study/params.py", "training/forecast.py"}
    assert "report/plots.py" in names(digests.of_notebook(root / "notebooks/4-results.ipynb"))


def test_evaluation_does_not_depend_on_the_loop(root: Path) -> None:
    evaluate, autoattack = (
        names(digests.of_notebook(root / "notebooks" / f"3-{name}.ipynb")) for name in ("evaluate", "autoattack")
    )
    assert "training/train.py" not in evaluate | autoattack
    assert "evaluation/autoattack.py" not in evaluate  # neither is run again for the other's sake
    assert "evaluation/evaluate.py" not in autoattack


LIGHT = """
import sys
import seladv.study.check
print(sorted({"torch", "numpy", "pandas", "nbformat"} & set(sys.modules)))
"""


def test_check_is_light() -> None:
    done = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


HEAVY = """
import sys
import seladv.training.train, seladv.evaluation.evaluate, seladv.evaluation.autoattack, seladv.training.forecast
print(sorted({"matplotlib", "seaborn", "pandas", "scipy", "statsmodels", "sklearn", "torchvision"} & set(sys.modules)))
"""


def test_training_and_evaluation_import_no_plotting() -> None:
    done = subprocess.run([sys.executable, "-c", HEAVY], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
