"""dvc.yaml: a stage depends on what it reads and on nothing else."""

import ast
from pathlib import Path
from typing import Any

import papermill
import pytest
import yaml

from seladv import arms, fidelity, lineage, notebooks, params
from seladv.params import Protocol

Stages = dict[str, dict[str, Any]]

PROTOCOLS = tuple(params.check(Path(__file__).parents[1] / "params.yaml"))
KINDS = ("data", "train", "evaluate", "transfer", "timing", "fidelity", "table")
protocols = pytest.mark.parametrize("protocol", PROTOCOLS)


@pytest.fixture(scope="module")
def stages(root: Path) -> Stages:
    read: Stages = yaml.safe_load((root / "dvc.yaml").read_text())["stages"]
    return read


def test_the_check_depends_on_the_whole_package(stages: Stages) -> None:
    assert {"seladv", "params.yaml"} < {*stages["check"]["deps"]}


@protocols
def test_a_stage_depends_on_its_code_and_on_what_it_reads_alone(stages: Stages, protocol: str) -> None:
    data, network = "data/${protocol}.safetensors", "models/${protocol}/${item.arm}-${item.seed}"
    assert {kind: set(stages[f"{kind}-{protocol}"]["deps"]) for kind in KINDS} == {
        "data": {"build/code/1-data.txt"},
        "train": {"build/code/2-train/${item.arm}.txt", data},
        "evaluate": {"build/code/3-evaluate.txt", data, network},
        "transfer": {"build/code/3-transfer.txt", data, "models/${protocol}"},
        "timing": {"seladv/timing.py", data, "results/metrics/${protocol}"},
        "fidelity": {"build/code/4-fidelity.txt", data, "models/${protocol}/${run}"},
        "table": {
            "build/code/4-results.txt", "results/metrics/${protocol}", "results/timing/${protocol}.json",
            "results/transfer/${protocol}.json"
        },
    }  # fmt: skip
    results = {f"results/{kind}" for kind in ("claims", "fidelity", "figures", "metrics", "timing", "transfer")}
    assert set(stages["claims"]["deps"]) == {"build/code/5-claims.txt", "params.yaml", *results}


@protocols
def test_a_notebooks_stage_gives_it_parameters_that_it_has(stages: Stages, root: Path, protocol: str) -> None:
    for kind, number in (("data", 1), ("train", 2), ("evaluate", 3), ("fidelity", 4), ("table", 4)):
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


@pytest.mark.parametrize("notebook", lineage.STAGES)
def test_what_a_notebooks_computing_cells_import_is_its_stages_code(root: Path, notebook: str) -> None:
    """Save what hands over settings, paths and provenance, or only says how a run is to be stored and forecast."""
    code = ast.parse(notebooks.code(root / "notebooks" / f"{notebook}.ipynb"))
    froms = [node for node in ast.walk(code) if isinstance(node, ast.ImportFrom) and node.module]
    used = {alias.name for node in froms if node.module == "seladv" for alias in node.names}
    used |= {node.module.removeprefix("seladv.") for node in froms if node.module.startswith("seladv.")}
    listed = {path.parent.name if path.stem == "__init__" else path.stem for path in lineage.of_stage(notebook)}
    assert used - listed <= {"params", "paths", "provenance", "forecast", "lineage", "checkpoint"}


@protocols
def test_every_setting_is_some_stages(stages: Stages, protocol: str) -> None:
    read = {param for name, stage in stages.items() if name.endswith(f"-{protocol}") for param in stage["params"]}
    of_no_result = {"max_hours"}
    assert read == {f"${{protocol}}.{name}" for name in set(Protocol.model_fields) - of_no_result}


@protocols
def test_fidelity_looks_at_a_run_of_the_plan_with_the_criteria_that_it_compares(
    stages: Stages, root: Path, protocol: str
) -> None:
    study = params.load(root / "params.yaml", protocol)
    arm, _, seed = stages[f"fidelity-{protocol}"]["vars"][1]["run"].rpartition("-")
    assert arm in study.arms
    assert int(seed) in study.seeds
    assert arms.parse(arm).criterion
    compared = {f"criteria/{name.replace('-', '_')}.py" for name in (fidelity.EXACT, *fidelity.PROXIES)}
    code = {str(path.relative_to(lineage.PACKAGE)) for path in lineage.of_stage("4-fidelity")}
    assert compared | {"fidelity.py", "selector.py", "ghost.py"} <= code


@protocols
def test_every_protocol_has_its_stages_over_its_own_arms_and_seeds(stages: Stages, protocol: str) -> None:
    for kind in KINDS:
        stage = stages[f"{kind}-{protocol}"]
        assert stage["vars"][0] == {"protocol": protocol}
        assert len(stage["vars"]) == 1 + (kind == "fidelity")
        matrix = {"arm": f"${{{protocol}.arms}}", "seed": f"${{{protocol}.seeds}}"}
        assert stage.get("matrix") == (matrix if kind in ("train", "evaluate") else None)


def test_every_stage_is_the_check_or_the_claims_or_a_protocols(stages: Stages) -> None:
    assert set(stages) == {"check", "claims", *(f"{kind}-{protocol}" for kind in KINDS for protocol in PROTOCOLS)}


def test_the_check_writes_what_the_other_stages_depend_on(stages: Stages, root: Path, tmp_path: Path) -> None:
    assert stages["check"]["outs"] == ["build/code"]
    numbered = {path.stem for path in (root / "notebooks").glob("[0-9]*.ipynb")}
    assert set(lineage.STAGES) == numbered
    lineage.write(root / "params.yaml", root / "notebooks", tmp_path)
    read = {dep.removeprefix("build/code/") for stage in stages.values() for dep in stage["deps"] if "build/" in dep}
    arms = {arm for name in PROTOCOLS for arm in params.check(root / "params.yaml")[name].arms}
    read = {dep.replace("${item.arm}", arm) for dep in read for arm in arms}
    assert read == {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.txt")}


def test_every_file_that_a_stage_names_is_there(stages: Stages, root: Path) -> None:
    named = {dep for stage in stages.values() for dep in stage["deps"] if dep.startswith(("seladv/", "notebooks/"))}
    assert {dep for dep in named if not (root / dep).exists()} == set()
