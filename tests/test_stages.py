"""dvc.yaml: a stage depends on what it reads and on nothing else."""

import ast
from pathlib import Path
from typing import Any

import pytest
import yaml

from seladv import params, train
from seladv.params import Protocol

Stages = dict[str, dict[str, Any]]

PROTOCOLS = tuple(params.check(Path(__file__).parents[1] / "params.yaml"))
protocols = pytest.mark.parametrize("protocol", PROTOCOLS)


@pytest.fixture(scope="module")
def stages(root: Path) -> Stages:
    read: Stages = yaml.safe_load((root / "dvc.yaml").read_text())["stages"]
    return read


def imports(path: Path) -> set[str]:
    """The modules of seladv that `path` imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.removeprefix("seladv.") for alias in node.names if alias.name.startswith("seladv.")}
        elif isinstance(node, ast.ImportFrom) and node.module == "seladv":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("seladv."):
            found.add(str(node.module).removeprefix("seladv."))
    return found


def reach(module: str) -> set[str]:
    """`module` and all that it imports, directly or not."""
    seen: set[str] = set()
    todo = [module]
    while todo:
        if (name := todo.pop()) not in seen:
            seen.add(name)
            todo += imports(Path(train.__file__).with_name(f"{name}.py"))
    return seen


def test_the_code_of_training_is_all_that_training_imports() -> None:
    assert sorted(train.CODE) == sorted(reach("train"))


@protocols
def test_training_depends_on_its_code_its_notebook_and_its_data_alone(stages: Stages, protocol: str) -> None:
    modules = {f"seladv/{module}.py" for module in (*train.CODE, "record")}
    assert {*stages[f"train-{protocol}"]["deps"]} == modules | {
        "build/2-train.py", "data/${protocol}.safetensors"
    }  # fmt: skip


@protocols
def test_training_and_data_depend_on_the_settings_that_they_read_alone(stages: Stages, protocol: str) -> None:
    settings = set(params.load(Path(__file__).parents[1] / "params.yaml", protocol).training())
    assert {*stages[f"data-{protocol}"]["params"]} == {"${protocol}.data", "${protocol}.holdout"}
    through_data = {"data", "holdout"}  # these two reach training as the data file
    assert {*stages[f"train-{protocol}"]["params"]} == {f"${{protocol}}.{name}" for name in settings - through_data}


@protocols
@pytest.mark.parametrize("kind", ["evaluate", "transfer"])
def test_judging_depends_on_the_code_that_judges(stages: Stages, protocol: str, kind: str) -> None:
    settings = {"params", "protocol", "arms", "selection", "gradients"}  # what they read comes in as parameters
    modules = reach(kind) - settings | {"checkpoint", "models", "record"}  # these read the network
    listed = {dep for dep in stages[f"{kind}-{protocol}"]["deps"] if dep.startswith("seladv/")}
    assert listed == {f"seladv/{module}.py" for module in modules}


@protocols
def test_every_setting_is_some_stages(stages: Stages, protocol: str) -> None:
    read = {param for name, stage in stages.items() if name.endswith(f"-{protocol}") for param in stage["params"]}
    assert read == {f"${{protocol}}.{name}" for name in Protocol.model_fields}


@protocols
def test_every_protocol_has_its_stages_over_its_own_arms_and_seeds(stages: Stages, protocol: str) -> None:
    for kind in ("data", "train", "evaluate", "transfer", "table"):
        stage = stages[f"{kind}-{protocol}"]
        assert stage["vars"] == [{"protocol": protocol}]
        matrix = {"arm": f"${{{protocol}.arms}}", "seed": f"${{{protocol}.seeds}}"}
        assert stage.get("matrix") == (matrix if kind in ("train", "evaluate") else None)


def test_every_stage_is_the_check_or_a_protocols(stages: Stages) -> None:
    kinds = ("data", "train", "evaluate", "transfer", "table")
    assert set(stages) == {"check", *(f"{kind}-{protocol}" for kind in kinds for protocol in PROTOCOLS)}


def test_the_check_writes_what_the_other_stages_run(stages: Stages, root: Path) -> None:
    written = set(stages["check"]["outs"])
    assert written == {f"build/{path.stem}.py" for path in (root / "notebooks").glob("[0-9]*.ipynb")}
    read = {dep for stage in stages.values() for dep in stage["deps"] if dep.startswith("build/")}
    assert read == written


def test_every_file_that_a_stage_names_is_there(stages: Stages, root: Path) -> None:
    named = {dep for stage in stages.values() for dep in stage["deps"] if dep.startswith(("seladv/", "notebooks/"))}
    assert {dep for dep in named if not (root / dep).exists()} == set()
