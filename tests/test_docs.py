"""README.md and docs: every number is in a file linked beside it, links lead somewhere, commands exist."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from seladv.selection import CRITERIA
from seladv.study import arms, params

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NUMBER = r"(?<![\w.=])\d+\.\d+(?![\d.])"
pages = pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])


def links(page: Path, text: str) -> list[Path]:
    found = [link for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text) if "://" not in link]
    return [(page.parent / link).resolve() for link in found]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)


@pages
def test_links(page: Path) -> None:
    assert [path for path in links(page, page.read_text()) if not path.exists()] == []


def paragraphs(page: Path, *sections: str) -> Iterator[str]:
    """The paragraphs, list items and tables of some sections; of all where none is named."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for section in re.split(r"^## ", text, flags=re.MULTILINE):
        if not sections or section.split("\n")[0] in sections:
            yield from re.split(r"\n\n|\n(?=- )", section)


def known(paths: list[Path]) -> set[str]:
    """The numbers in the files, as they are written there."""
    texts = [path.read_text() for path in paths if path.suffix in (".md", ".csv", ".json")]
    return {number for text in texts for number in re.findall(NUMBER, text)}


def test_findings_are_in_the_files() -> None:
    page, checked = ROOT / "docs/findings.md", 0
    for text in paragraphs(page):
        numbers = set(re.findall(NUMBER, re.sub(r"https?://\S+", "", text))) - {"0.3"}  # eps of MNIST
        files = links(page, text)
        if "84.5 for `full`" in text:  # the paper's own figure
            numbers.remove("84.5")
        assert not numbers - known(files), text
        checked += len(numbers)
    assert checked > 40


def test_readme_numbers_are_in_the_files() -> None:
    page = ROOT / "README.md"
    answer = list(paragraphs(page, "Answer"))
    table = next(text for text in answer if text.startswith("| data"))
    results = {
        "CIFAR-10": ["results/first/cifar10-small.md", "results/first/bench/autoattack-cifar10-small.json"],
        "MNIST": ["results/first/mnist.md"],
    }
    rows = table.splitlines()[2:]
    for row in rows:
        name, arm, clean, pgd, auto, cost = (cell.strip() for cell in row.strip("|").split("|"))
        arm = re.findall(r"`(.+?)`", arm)[0]
        files = [ROOT / file for file in results[name]]
        (line,) = (
            line for line in files[0].read_text().splitlines() if re.match(rf"\| {arm}[ |]", line) and "±" in line
        )
        assert f"| {clean} | {pgd} |" in line
        assert f"| {cost} |" in line
        auto_of_seeds = json.loads(files[1].read_text())["mean over seeds"] if files[1:] else {}
        assert f"| {auto} |" in line if name == "MNIST" else float(auto) == auto_of_seeds[arm], row
    for text in (*answer, *paragraphs(page, "In your own loop")):
        if text != table:
            assert not set(re.findall(NUMBER, text)) - known(links(page, text)), text
    assert len(rows) == 7


COMMANDS = {  # what a shell line may begin with → how its target is known to exist
    r"(?:SELADV_MIRROR=\S+ )?make ([a-z-]+)": "make",
    r"dvc repro (?:--\S+ )*([a-z0-9/.@-]+)": "stage",
    r"(?:dvc|git|cd|source|pip|python -m venv) .+": "",
}


def shell(page: Path) -> Iterator[str]:
    for block in blocks(page, "sh"):
        for line in block.splitlines():
            if command := line.split("  #")[0].strip():
                yield command.replace("<protocol>", "digits")


@pytest.fixture(scope="module")
def stages() -> set[str]:
    listed = subprocess.run(["dvc", "stage", "list", "--name-only", "--all"], cwd=ROOT, capture_output=True, text=True)
    return {*listed.stdout.split(), "gpu/dvc.yaml"}


@pages
def test_commands_exist(page: Path, stages: set[str]) -> None:
    for command in shell(page):
        match, kind = next((m, kind) for form, kind in COMMANDS.items() if (m := re.fullmatch(form, command)))
        if kind == "make":
            target = match[1].replace("photos", "digits")
            done = subprocess.run(
                ["make", "-n", "-o", ".venv/.ready", target], cwd=ROOT, capture_output=True, text=True
            )
            assert done.returncode == 0, command
        elif kind == "stage":
            name = match[1].replace("photos", "digits")
            assert name in stages, command


def test_own_images_are_a_protocol(tmp_path: Path) -> None:
    """The two blocks of docs/own-images.md, pasted as they stand."""
    section, pipeline = blocks(ROOT / "docs/own-images.md", "yaml")
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text() + "\n" + section)
    assert params.check(tmp_path / "params.yaml")["photos"].arms == ["clean", "full", "random-50", "margin-50"]
    (tmp_path / "dvc.yaml").write_text((ROOT / "dvc.yaml").read_text().rstrip() + "\n\n" + pipeline)
    subprocess.run(["dvc", "init", "-q", "--no-scm"], cwd=tmp_path, check=True)
    listed = subprocess.run(
        ["dvc", "stage", "list", "--name-only"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert {"data-photos", "train-photos@margin-50-0", "table-photos"} <= {*listed.stdout.split()}


def test_every_criterion_and_switch_is_listed() -> None:
    page = (ROOT / "docs/arms.md").read_text()
    assert [name for name in CRITERIA if f"`{name}-" not in page] == []
    for name in re.findall(
        r"`([a-z0-9]+(?:-[a-z0-9]+)*-\d+(?:-stale)?|clean|full|full-k20|n?fgsm|as-coded-\w+)`", page
    ):
        if name != "loss-50":
            arms.parse(name)


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
