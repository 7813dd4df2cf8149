"""Which results are stale: a small study in a DVC repository of its own, whose data and networks go missing."""

import runpy
import shutil
from pathlib import Path

import pytest
import yaml
from dvc.repo import Repo

from seladv import status

CODE = {"code.py": "1", "table.py": "1", "build/code/1-data.txt": "data", "build/code/2-train/full.txt": "full"}
MATRIX = {"arm": "${p.arms}", "seed": "${p.seeds}"}
RUN = "p/${item.arm}-${item.seed}"
STAGES = {
    "data-p": {"cmd": "mkdir -p data && echo raw > data/p", "deps": ["code.py"], "outs": ["data/p"]},
    "train-p": {
        "matrix": MATRIX,
        "cmd": f"mkdir -p models/p && cat code.py build/code/1-data.txt > models/{RUN}",
        "deps": ["data/p", "build/code/1-data.txt", "build/code/2-train/${item.arm}.txt"],
        "params": ["p.lr"],
        "outs": [f"models/{RUN}"],
    },
    "evaluate-p": {
        "matrix": MATRIX,
        "cmd": f"mkdir -p results/metrics/p && cp models/{RUN} results/metrics/{RUN}.json",
        "deps": [f"models/{RUN}"],
        "outs": [{f"results/metrics/{RUN}.json": {"cache": False}}],
    },
    "transfer-p": {
        "cmd": "mkdir -p results/transfer && cat models/p/* > results/transfer/p.json",
        "deps": ["models/p"],
        "outs": [{"results/transfer/p.json": {"cache": False}}],
    },
    "table-p": {
        "cmd": "cat table.py results/metrics/p/* > results/p.csv",
        "deps": ["table.py", "results/metrics/p"],
        "outs": [{"results/p.csv": {"cache": False}}],
    },
}


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def params(root: Path, *, lr: float = 0.1, arms: tuple[str, ...] = ("full",), seeds: tuple[int, ...] = (0, 1)) -> None:
    write(root, {"params.yaml": yaml.safe_dump({"p": {"lr": lr, "arms": [*arms], "seeds": [*seeds]}})})


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("whole")
    write(root, {**CODE, "dvc.yaml": yaml.safe_dump({"stages": STAGES})})
    params(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        with Repo.init(no_scm=True) as repo:
            repo.reproduce()
    return root


@pytest.fixture
def clone(whole: Path, tmp_path: Path) -> Path:
    """The study as git would have it: code, dvc.lock and results; no data, no network, nothing in build/."""
    root = tmp_path / "clone"
    shutil.copytree(whole, root, ignore=shutil.ignore_patterns("data", "models", "build", "tmp", "cache"))
    return root


def says(root: Path, **built: str) -> dict[str, str]:
    """What is said of every stage with results; `built` is other code than at the run."""
    write(root, {name: text for name, text in (CODE | built).items() if name.startswith("build/")})
    fresh = {name: status._md5(root / name) for name in CODE if name.startswith("build/")}
    shutil.rmtree(root / "build")
    with Repo(str(root)) as repo:
        plan = status.Plan(root, repo.index.stages, fresh)
        found = {status.name(key, ["p"]): plan.says(stage) for key, stage in plan.stages.items() if plan.results(stage)}
        return found | {file: "leftover" for file in plan.leftovers()}


FRESH = dict.fromkeys(("p full-0", "p full-1", "p transfer", "p table"), "belongs to this code")


def test_results_without_data_and_networks_belong_to_the_code_that_made_them(clone: Path, whole: Path) -> None:
    assert says(clone) == FRESH
    assert (whole / "models/p/full-0").exists()


def test_a_changed_module_is_named_in_all_that_comes_after_it(clone: Path) -> None:
    write(clone, {"table.py": "2"})
    assert says(clone) == FRESH | {"p table": "stale: table.py changed since"}
    write(clone, {"table.py": "1", "code.py": "2"})  # the first stage's
    runs = dict.fromkeys(("p full-0", "p full-1", "p transfer"), "stale: code.py changed since")
    assert says(clone) == runs | {"p table": "stale: results/metrics/p changed since"}


def test_a_changed_setting_notebook_and_criterion_are_named(clone: Path) -> None:
    assert says(clone, **{"build/code/1-data.txt": "x"})["p full-1"] == "stale: the code of 1-data changed since"
    assert (
        says(clone, **{"build/code/2-train/full.txt": "x"})["p full-1"]
        == "stale: the code of 2-train for full changed since"
    )
    params(clone, lr=0.2)
    assert says(clone)["p full-1"] == "stale: params.yaml: p.lr changed since"


def test_what_changed_is_counted_after_the_third(clone: Path) -> None:
    params(clone, lr=0.2)
    write(clone, {"code.py": "2", "results/metrics/p/full-0.json": "by hand"})
    said = says(clone, **{"build/code/1-data.txt": "x", "build/code/2-train/full.txt": "x"})["p full-0"]
    assert said.startswith("stale: ")
    assert said.endswith(" and 2 more changed since")


def test_a_result_changed_by_hand_is_stale(clone: Path) -> None:
    write(clone, {"results/metrics/p/full-0.json": "better"})
    said = says(clone)
    assert said["p full-0"] == "stale: results/metrics/p/full-0.json itself changed since"
    assert (said["p full-1"], said["p table"]) == (FRESH["p full-1"], "stale: results/metrics/p changed since")


def test_what_was_never_run_is_told_from_what_came_from_elsewhere(clone: Path) -> None:
    params(clone, arms=("full", "fast"), seeds=(0,))
    write(clone, {"results/metrics/p/fast-0.json": "copied"})
    said = says(clone)
    assert said["p fast-0"] == "stale: dvc.lock knows no run of evaluate-p@fast-0"
    assert said["results/metrics/p/full-1.json"] == "leftover"  # its seed is no longer asked for
    (clone / "results/metrics/p/fast-0.json").unlink()
    assert says(clone)["p fast-0"] == "not run"


def test_the_study_itself_has_a_line_for_every_run(root: Path) -> None:
    lines = status.lines(root)
    heads = [line.split(": ")[0] for line in lines]
    assert len(heads) == len(set(heads))
    for protocol, section in yaml.safe_load((root / "params.yaml").read_text()).items():
        for arm in (section or {}).get("arms", []):
            assert {f"{protocol} {arm}-{seed}" for seed in section["seeds"]} <= {*heads}
    assert set(status.build(root)) > {"build/code/4-results.txt", "build/code/2-train/full.txt"}


def test_protocols_with_dashes_keep_their_names() -> None:
    protocols = ["cifar10", "cifar10-small"]
    assert status.name("evaluate-cifar10-small@margin-50-0", protocols) == "cifar10-small margin-50-0"
    assert status.name("table-cifar10-small", protocols) == "cifar10-small table"
    assert status.name("fidelity-cifar10@full-0", protocols) == "cifar10 fidelity full-0"
    assert status.name("claims", protocols) == "claims"


def test_wrong_settings_end_with_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {"dvc.yaml": "stages: {}", "params.yaml": "digits: {arms: [marjin-50]}"})
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=r"^[^\n]*params\.yaml: digits[^\n]*$"):
        runpy.run_module("seladv.status", run_name="__main__")
