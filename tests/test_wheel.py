"""The wheel: the package and nothing else, and a library that needs none of the study's packages."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

STUDY = (
    "dvc",
    "jupyterlab",
    "papermill",
    "IPython",
    "pandas",
    "seaborn",
    "matplotlib",
    "scipy",
    "sklearn",
    "pyautoattack",
)
ALONE = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
sys.path.insert(0, {wheel!r})
import torch
from seladv.attack import pgd
from seladv.selection import SELECTORS
import seladv
assert seladv.__file__.startswith({wheel!r}), seladv.__file__
model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
x, y = torch.rand(6, 3, 2, 2), torch.arange(6) % 3
for name, select in SELECTORS.items():
    chosen = select(model, x, y, 2)
    assert pgd(model, x[chosen], y[chosen], eps=0.1, step_size=0.05, steps=2).shape == (2, 3, 2, 2)
print("works")
"""


@pytest.fixture(scope="module")
def wheel(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: setuptools leaves its `build` and `egg-info` beside the sources."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    listed = ["git", "ls-files", "-co", "--exclude-standard", "-z"]
    names = subprocess.run(listed, cwd=root, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in names:
        if name and (root / name).is_file() and not name.startswith("results/"):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((root / name).read_bytes())
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run([*pip, "-w", target, source], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (built,) = target.glob("*.whl")
    return built


def test_it_holds_every_module_of_the_package_and_nothing_else(root: Path, wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    found = {name for name in names if ".dist-info/" not in name}
    endings = (".py", ".css", ".js")  # the results page has a style and a script
    modules = {p.relative_to(root).as_posix() for p in (root / "seladv").rglob("*") if p.suffix in endings}
    assert found == modules | {"seladv/py.typed"}
    assert [name for name in names if name.endswith(".dist-info/licenses/LICENSE")]


def test_attack_and_selection_need_none_of_the_studys_packages(wheel: Path) -> None:
    command = ALONE.format(blocked=STUDY, wheel=str(wheel))
    done = subprocess.run([sys.executable, "-P", "-c", command], capture_output=True, text=True, check=False, cwd="/")
    assert done.stdout == "works\n", done.stderr
