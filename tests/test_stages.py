"""dvc.yaml: a stage depends on what it reads and on nothing else."""

import ast
from pathlib import Path
from typing import Any

import papermill
import pytest
import yaml

from seladv import lineage, notebooks, params
from seladv.params import Protocol

Stages = dict[str, dict[str, Any]]

PROTOCOLS = tuple(params.check(Path(__file__).parents[1] / "params.yaml"))
protocols = pytest.mark.parametrize("protocol", PROTOCOLS)


@pytest.fixture(scope="module")
def stages(root: Path) -> Stages:
    read: Stages = yaml.safe_load((root / "dvc.yaml").read_text())["stages"]
    return read


def test_the_check_depends_on_the_whole_package(stages: Stages) -> None:
    assert {"seladv", "params.yaml"} < {*stages["check"]["deps"]}


@protocols
def test_training_depends_on_its_code_its_notebook_and_its_data_alone(stages: Stages, protocol: str) -> None:
    modules = {f"seladv/{path.relative_to(lineage.PACKAGE)}" for path in lineage.of_training()} | {"seladv/record.py"}
    assert {*stages[f"train-{protocol}"]["deps"]} == modules | {
        "build/2-train.py", "build/arms/${item.arm}.txt", "data/${protocol}.safetensors"
    }  # fmt: skip


@protocols
def test_a_notebooks_stage_gives_it_parameters_that_it_has(stages: Stages, root: Path, protocol: str) -> None:
    for kind, number in (("data", 1), ("train", 2), ("evaluate", 3), ("table", 4)):
        runner, notebook, output, *settings = stages[f"{kind}-{protocol}"]["cmd"].removeprefix("python -m ").split()
        assert runner == "seladv.stage"
        assert notebook.startswith(f"notebooks/{number}-")
        assert output.startswith("runs/${protocol}/")
        assert {setting.split("=")[0] for setting in settings} == set(papermill.inspect_notebook(root / notebook))


@protocols
def test_training_and_data_depend_on_the_settings_that_they_read_alone(stages: Stages, protocol: str) -> None:
    settings = set(params.load(Path(__file__).parents[1] / "params.yaml", protocol).training())
    assert {*stages[f"data-{protocol}"]["params"]} == {"${protocol}.data", "${protocol}.holdout"}
    through_data = {"data", "holdout"}  # these two reach training as the data file
    assert {*stages[f"train-{protocol}"]["params"]} == {f"${{protocol}}.{name}" for name in settings - through_data}


def reach(notebook: Path) -> set[str]:
    """The modules that a notebook's computing cells import, directly or not."""
    called = [node for node in ast.walk(ast.parse(notebooks.code(notebook))) if isinstance(node, ast.ImportFrom)]
    modules = [alias.name for node in called if node.module == "seladv" for alias in node.names]
    return set().union(*map(lineage.closure, modules))


@pytest.mark.parametrize("stage", ["claims", *(f"table-{protocol}" for protocol in PROTOCOLS)])
def test_the_tables_and_the_claims_depend_on_the_modules_that_they_run(stages: Stages, root: Path, stage: str) -> None:
    listed = {dep.removeprefix("seladv/").removesuffix(".py") for dep in stages[stage]["deps"] if "seladv/" in dep}
    run = reach(root / "notebooks" / ("5-claims.ipynb" if stage == "claims" else "4-results.ipynb"))
    elsewhere = lineage.closure("params") | lineage.closure("train") | {"checkpoint", "paths", "plain"}  # the runs
    if stage == "claims":
        elsewhere |= {"stats", "results"}  # they alter the tables
        run |= {"manifest"}  # no notebook's
    assert listed == run - elsewhere


@protocols
@pytest.mark.parametrize("kind", ["evaluate", "transfer"])
def test_judging_depends_on_the_code_that_judges(stages: Stages, protocol: str, kind: str) -> None:
    settings = {"params", "protocol", "arms", "selection", "gradients"}  # what they read comes in as parameters
    modules = lineage.closure(kind) - settings | {"checkpoint", "models", "record"}  # these read the network
    listed = {dep for dep in stages[f"{kind}-{protocol}"]["deps"] if dep.startswith("seladv/")}
    assert listed == {f"seladv/{module}.py" for module in modules}


@protocols
def test_every_setting_is_some_stages(stages: Stages, protocol: str) -> None:
    read = {param for name, stage in stages.items() if name.endswith(f"-{protocol}") for param in stage["params"]}
    of_no_result = {"max_hours"}
    assert read == {f"${{protocol}}.{name}" for name in set(Protocol.model_fields) - of_no_result}


@protocols
def test_every_protocol_has_its_stages_over_its_own_arms_and_seeds(stages: Stages, protocol: str) -> None:
    for kind in ("data", "train", "evaluate", "transfer", "timing", "table"):
        stage = stages[f"{kind}-{protocol}"]
        assert stage["vars"] == [{"protocol": protocol}]
        matrix = {"arm": f"${{{protocol}.arms}}", "seed": f"${{{protocol}.seeds}}"}
        assert stage.get("matrix") == (matrix if kind in ("train", "evaluate") else None)


def test_every_stage_is_the_check_or_the_claims_or_a_protocols(stages: Stages) -> None:
    kinds = ("data", "train", "evaluate", "transfer", "timing", "table")
    assert set(stages) == {"check", "claims", *(f"{kind}-{protocol}" for kind in kinds for protocol in PROTOCOLS)}


def test_the_check_writes_what_the_other_stages_run(stages: Stages, root: Path) -> None:
    written = set(stages["check"]["outs"])
    notebooks = {f"build/{path.stem}.py" for path in (root / "notebooks").glob("[0-9]*.ipynb")}
    assert written == {*notebooks, "build/arms"}
    read = {dep for stage in stages.values() for dep in stage["deps"] if dep.startswith("build/")}
    read = {"build/arms" if dep.startswith("build/arms/") else dep for dep in read}
    assert read == written


def test_every_file_that_a_stage_names_is_there(stages: Stages, root: Path) -> None:
    named = {dep for stage in stages.values() for dep in stage["deps"] if dep.startswith(("seladv/", "notebooks/"))}
    assert {dep for dep in named if not (root / dep).exists()} == set()
