"""A result depends on the files that can alter it: its own criterion's, and no other's."""

from pathlib import Path

from seladv import lineage
from seladv.selection import CRITERIA


def names(paths: list[Path]) -> set[str]:
    return {str(path.relative_to(lineage.PACKAGE)) for path in paths}


def test_training_depends_on_the_loop_and_not_on_the_registry_or_any_criterion() -> None:
    files = names(lineage.of_training())
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


def test_every_arm_of_the_study_gets_its_file(root: Path, tmp_path: Path) -> None:
    lineage.write(root / "params.yaml", tmp_path)
    digest, name = (tmp_path / "margin-50.txt").read_text().split()
    assert (len(digest), name) == (64, "seladv/criteria/margin.py")
    assert (tmp_path / "full.txt").read_text() == ""
