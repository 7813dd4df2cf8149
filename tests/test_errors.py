"""Mistakes that a person can make, and the line that each is answered by: what, where, and what to do next.

A command ends with that line, on stderr, and shows no traceback; so does a cell in JupyterLab.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import pytest
import torch
from torch import Tensor, nn

from seladv import checkpoint, data, models, params, plain, results, sources
from seladv.attack import pgd
from seladv.selection import SELECTORS

ROOT = Path(__file__).parents[1]
STAGE = "python -m seladv.stage notebooks/{} runs/out.ipynb output=runs/{}"
TRAIN, EVALUATE = STAGE.format("2-train.ipynb", "models"), STAGE.format("3-evaluate.ipynb", "metrics")
NAMES = r"an arm is clean, full, .* or <criterion>-<percent>, with criterion one of random, .* from 1 to 100"


class Study:
    """The files that a command reads; the digits are prepared, one run of them looks as if it were trained."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("params.yaml", "dvc.yaml"):
            shutil.copy(ROOT / name, folder)
        for name in ("notebooks", "seladv"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        raw = sources.raw("digits", root=folder, mirror=None)
        checkpoint.write(folder / "data/digits.safetensors", data.split(raw, holdout=100), {})
        weights = models.build("digits-cnn", seed=0).state_dict()
        for which in ("last", "best"):
            path = folder / "models/digits/full-0" / f"{which}.safetensors"
            checkpoint.write(path, weights, {"model": "digits-cnn", "classes": 10})
        (folder / "mirror").mkdir()
        (folder / "mirror/train-images-idx3-ubyte").write_bytes(b"not what was published")

    def write(self, name: str, content: str | bytes) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())

    def replace(self, old: str, new: str) -> None:
        text = (self.folder / "params.yaml").read_text()
        assert old in text
        self.write("params.yaml", text.replace(old, new, 1))

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        own = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(self.folder)}
        env = {**os.environ, **own, "OMP_NUM_THREADS": "1"}
        env.pop("PYTEST_CURRENT_TEST", None)
        return subprocess.run(
            ["bash", "-c", command], cwd=self.folder, env=env, capture_output=True, text=True, check=False
        )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return Study(tmp_path_factory.mktemp("study"))


@pytest.fixture
def study(made: Study) -> Study:
    """As it was made, whatever the test before did to its settings and its files."""
    shutil.copy(ROOT / "params.yaml", made.folder)
    shutil.rmtree(made.folder / "runs", ignore_errors=True)
    return made


Mistake = Callable[[Study], object]

COMMANDS: dict[str, tuple[str, str]] = {  # what is typed, and the last line on stderr
    "an unknown protocol": (
        f"{TRAIN} protocol=digit",
        r"params\.yaml: unknown protocol 'digit'; allowed: digits, digits-all, mnist",
    ),
    "no number of lanes": (
        "python -m seladv.lanes digits x",
        r"lanes: 'x' is no number of runs at a time; leave it out",
    ),
    "an unknown arm": (f"{TRAIN} arm=marjin-50", rf"params\.yaml: digits\.arms = 'marjin-50': {NAMES}"),
    "a ratio of 0": (f"{TRAIN} arm=margin-0", rf"digits\.arms = 'margin-0': {NAMES}"),
    "a ratio above 100": (f"{TRAIN} arm=margin-101", rf"digits\.arms = 'margin-101': {NAMES}"),
    "a negative seed": (f"{TRAIN} seed=-1", r"digits\.seeds\[0\] = -1: it should be greater than or equal to 0"),
    "a seed that is no number": (f"{TRAIN} seed=one", r"digits\.seeds\[0\] = 'one': it should be a valid integer"),
    "data that were never prepared": (
        f"{TRAIN} protocol=mnist arm=full",
        r"mnist\.safetensors does not exist: run `dvc repro data-mnist`",
    ),
    "evaluating what is not trained": (
        f"{EVALUATE} arm=random-50",
        r"random-50-0/last\.safetensors does not exist: run `dvc repro train-digits@random-50-0` first",
    ),
    "a table of runs that are missing": (
        STAGE.format("4-results.ipynb", "results"),
        r"metrics/digits/clean-0\.json is missing: run `dvc repro evaluate-digits@clean-0`",
    ),
    "a mirror that is not there": (
        f"SELADV_MIRROR=nowhere {STAGE.format('1-data.ipynb', 'data')} protocol=mnist",
        r"not in the mirror nowhere: it is not a folder\. Supply the files by a mirror",
    ),
    "a damaged download": (
        f"SELADV_MIRROR=mirror {STAGE.format('1-data.ipynb', 'data')} protocol=mnist",
        r"train-images-idx3-ubyte has md5 \w+ where 6bbc9ace\w+ was expected.* Supply the files",
    ),
    "an unknown setting of a stage": (
        f"{TRAIN} arms=full",
        r"2-train\.ipynb has no parameter 'arms'; it has: protocol, arm, seed, output",
    ),
    "a notebook that is not there": (
        "python -m seladv.stage notebooks/train.ipynb out.ipynb",
        r"notebooks/train\.ipynb is no notebook; in its folder are: 1-data\.ipynb, 2-train",
    ),
    "no arguments for a stage": (
        "python -m seladv.stage",
        r"usage: python -m seladv\.stage NOTEBOOK OUTPUT \[NAME=VALUE \.\.\.\]",
    ),
    "a time that is none": (
        "SELADV_WARM=soon python -m seladv.stage",
        r"SELADV_WARM = 'soon': a number of seconds is needed, 0 for no server",
    ),
    "no arguments for the check": ("python -m seladv.params", r"usage: python -m seladv\.params params\.yaml"),
    "no file to check": (
        "python -m seladv.params params.yml",
        r"params\.yml cannot be read: No such file or directory",
    ),
    "no arguments for the notebooks' code": (
        "python -m seladv.lineage",
        r"usage: python -m seladv\.lineage PARAMS NOTEBOOKS TARGET",
    ),
    "a folder outside of the study": (
        "cd / && python -m seladv.manifest",
        r"/ is not inside the study: no folder above it holds params\.yaml and dvc\.yaml; go there",
    ),
    "timing an unknown protocol": (
        "python -m seladv.timing digit runs/timing.json",
        r"unknown protocol 'digit'; allowed: digits, digits-all, mnist",
    ),
    "timing without data": (
        "python -m seladv.timing mnist runs/timing.json",
        r"mnist\.safetensors does not exist: run `dvc repro data-mnist` first",
    ),
    "no arguments for the timing": ("python -m seladv.timing", r"usage: python -m seladv\.timing PROTOCOL FILE"),
}
FILES: dict[str, tuple[Mistake, str, str]] = {  # what is wrong in the study, what is typed, the last line on stderr
    "an unknown key": (
        lambda s: s.replace("  lr:", "  lrr:"),
        "python -m seladv.params params.yaml",
        r"params\.yaml: digits\.lr is missing",
    ),
    "eps as text": (
        lambda s: s.replace("eps: 0.15", "eps: small"),
        "python -m seladv.params params.yaml",
        r"digits\.eps = 'small': a number or a fraction such as 8/255 is allowed",
    ),
    "a key that is there twice": (
        lambda s: s.replace("  eps: 0.15", "  eps: 0.15\n  eps: 0.3"),
        "python -m seladv.params params.yaml",
        r"params\.yaml, line \d+: 'eps' stands there already in line \d+; keep one",
    ),
    "a protocol that is there twice": (
        lambda s: s.replace("\nmnist:", "\ndigits:"),
        "python -m seladv.params params.yaml",
        r"params\.yaml, line \d+: 'digits' stands there already in line \d+; keep one",
    ),
    "no YAML": (
        lambda s: s.write("params.yaml", "digits: [1,\n"),
        "python -m seladv.params params.yaml",
        r"params\.yaml is not YAML: ",
    ),
    "hours of training": (
        lambda s: s.replace("max_hours: 1 ", "max_hours: 1e-9 "),
        f"{TRAIN} arm=full",
        r"digits: about .* hours .*, more than digits\.max_hours = 1e-09 .* allows here: raise it, ask for fewer",
    ),
    "a damaged network": (
        lambda s: s.write("models/digits/easy-50-0/last.safetensors", b"no network"),
        f"{EVALUATE} arm=easy-50",
        r"easy-50-0/last\.safetensors is not a checkpoint of this study \(.*\); delete it and run again",
    ),
    "damaged data": (
        lambda s: s.write("data/mnist.safetensors", b"no data"),
        f"{TRAIN} protocol=mnist arm=full",
        r"mnist\.safetensors is not a prepared data set \(.*\): delete it and run `dvc repro data-mnist`",
    ),
    "a folder of images that is not there": (
        lambda s: s.replace("data: cifar10", "data: {folder: pictures, size: 32}"),
        f"{STAGE.format('1-data.ipynb', 'data')} protocol=cifar10-small",
        r"pictures/train: a folder of images for each class is needed there",
    ),
    "another network's weights": (
        lambda s: s.replace("model: digits-cnn", "model: mnist-cnn"),
        f"{EVALUATE} arm=full",
        r"digits\.model = 'mnist-cnn': does not fit the data; allowed: digits-cnn",
    ),
}


def check(done: subprocess.CompletedProcess[str], line: str) -> None:
    *before, last = done.stderr.splitlines()
    assert done.returncode == 1
    assert re.search(line, last), done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert not any(re.match(r'\s*File ".*", line \d+', each) for each in before)


@pytest.mark.parametrize(("command", "line"), COMMANDS.values(), ids=COMMANDS)
def test_a_wrong_command(study: Study, command: str, line: str) -> None:
    check(study.run(command), line)


@pytest.mark.parametrize(("mistake", "command", "line"), FILES.values(), ids=FILES)
def test_a_wrong_file(study: Study, mistake: Mistake, command: str, line: str) -> None:
    mistake(study)
    check(study.run(command), line)


# ---- the library

X, Y = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(5)


def attack(x: Tensor = X, **changes: Any) -> Tensor:
    settings = {"eps": 0.1, "step_size": 0.05, "steps": 1} | changes
    return pgd(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), x, Y, **settings)


CALLS: dict[str, tuple[Callable[[], object], str]] = {
    "images as bytes": (
        lambda: attack((255 * X).to(torch.uint8)),
        r"images must lie in \[0, 1\], found .*; normalise inside the model",
    ),
    "normalised images": (
        lambda: attack(X - 0.5),
        r"pgd: images must lie in \[0, 1\], found \[-0\.\d+, 0\.\d+\]; normalise inside the model, not before it",
    ),
    "images that are no numbers": (lambda: attack(X / 0), r"images must lie in \[0, 1\], found .*(inf|nan)"),
    "a negative eps": (lambda: attack(eps=-0.1), r"pgd: eps=-0\.1, step_size=0\.05, steps=1, .*: none may be negative"),
    "more samples than there are": (lambda: SELECTORS["margin"](nn.Flatten(), X, Y, 6), r"select.* 6 .*5"),
    "no last layer": (
        lambda: SELECTORS["gradmatch-last"](nn.Flatten(), X, Y, 1),
        r"gradmatch-last: Flatten has no nn\.Linear",
    ),
    "no parameters": (
        lambda: SELECTORS["gradmatch"](nn.Flatten(), X, Y, 1),
        r"ghost: the logits depend on no parameter",
    ),
    "more images held out than there are": (
        lambda: data.split({"train_labels": Y}, holdout=9),
        r"holdout = 9: the training set has only 5 images",
    ),
    "half a metrics file": (
        lambda: results.timing(ROOT / "README.md"),
        r"README\.md is not whole: measure the epochs anew",
    ),
    "no such protocol": (
        lambda: params.load(ROOT / "params.yaml", "x"),
        r"params\.yaml: unknown protocol 'x'; allowed: digits",
    ),
}


@pytest.mark.parametrize(("call", "line"), CALLS.values(), ids=CALLS)
def test_a_wrong_call_is_refused_in_a_line_of_the_packages_own(call: Callable[[], object], line: str) -> None:
    with pytest.raises((ValueError, RuntimeError), match=rf"^[^\n]*{line}[^\n]*$") as caught:
        call()
    assert plain.refused(caught.value)


# ---- the cells


def test_a_cell_shows_a_refusal_as_a_line_and_a_bug_with_its_traceback(study: Study) -> None:
    cells = [
        "from seladv import arms, params, paths\nroot = paths.root()",
        "params.load(root / 'params.yaml', 'digit')",
        "arms.parse('marjin-50')",
        "arms.parse(5)",
        "int('x')",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    folder = study.folder / "notebooks"
    client = nbclient.NotebookClient(
        notebook, timeout=120, kernel_name="python3", allow_errors=True, resources={"metadata": {"path": str(folder)}}
    )
    client.execute(env={**os.environ, "PYTHONPATH": str(study.folder)})
    first, *failed = ([output for output in cell.outputs] for cell in notebook.cells)
    assert first == []
    shown = [json.loads(json.dumps(outputs[0]))["traceback"] for outputs in failed]
    assert [len(lines) for lines in shown[:2]] == [1, 1]
    assert "unknown protocol 'digit'; allowed: digits" in shown[0][0]
    assert re.search(NAMES, shown[1][0])
    for lines, kind in zip(shown[2:], ("TypeError", "ValueError"), strict=True):
        assert len(lines) > 1
        assert kind in lines[-1]
