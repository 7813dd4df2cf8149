"""codecheck.yml names what the stages write, as DVC itself reads dvc.yaml."""

from pathlib import Path

import pytest
import yaml
from dvc.repo import Repo

from seladv import manifest


@pytest.fixture(scope="module")
def listed(root: Path) -> list[str]:
    content = yaml.safe_load((root / "codecheck.yml").read_text())
    return [item["file"] for item in content["manifest"]]


def test_the_manifest_is_every_output_below_results_that_dvc_knows_and_that_is_there(
    root: Path, listed: list[str]
) -> None:
    with Repo(str(root)) as repo:
        outs = {Path(out.fs_path).relative_to(root) for out in repo.index.outs}
    outs = {out for out in outs if out.parts[0] == "results"}
    found = {file.relative_to(root) for file in (root / "results").rglob("*") if file.is_file()}
    made = {file.as_posix() for file in found if file in outs or outs & {*file.parents}}
    assert made
    assert {name for name in listed if not name.startswith("results/bench/")} == made
    assert {name for name in listed if not (root / name).is_file()} == set()


def test_the_manifest_is_up_to_date(root: Path) -> None:
    assert (root / "codecheck.yml").read_text() == manifest.page(root), "run `python -m seladv.manifest`"


def test_what_a_manifest_must_have(root: Path, listed: list[str]) -> None:
    text = (root / "codecheck.yml").read_text()
    content = yaml.safe_load(text)
    assert text.startswith("---\n")
    assert content["paper"]["title"] in (root / "CITATION.cff").read_text()
    assert content["paper"]["reference"] in (root / "CITATION.cff").read_text()
    assert len(listed) == len(set(listed))
    assert not [name for name in listed if Path(name).is_absolute() or ".." in Path(name).parts]
    assert all(item["comment"] for item in content["manifest"])


def test_a_matrix_becomes_a_file_for_each_of_its_runs() -> None:
    stages = {
        "a": {"outs": ["models/x", {"results/page.md": {"cache": False}}]},
        "b": {
            "vars": [{"protocol": "p"}],
            "matrix": {"arm": "${p.arms}", "seed": "${p.seeds}"},
            "outs": ["results/${protocol}/${item.arm}-${item.seed}.json"],
        },
    }
    made = manifest.declared(stages, {"p": {"arms": ["full", "x-5"], "seeds": [0, 7]}})
    runs = ["full-0", "full-7", "x-5-0", "x-5-7"]
    assert made == ["results/page.md", *(f"results/p/{run}.json" for run in runs)]
