"""The wheel holds the package and nothing else; attack and selection need none of the study's packages."""

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

STUDY = (
    "dvc",
    "ipywidgets",
    "jupyterlab",
    "papermill",
    "IPython",
    "pandas",
    "seaborn",
    "matplotlib",
    "scipy",
    "statsmodels",
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
import seladv
from seladv import SELECTORS, pgd, select
assert seladv.__file__.startswith({wheel!r}), seladv.__file__
assert seladv.__version__ == {version!r}, seladv.__version__
model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
x, y = torch.rand(6, 3, 2, 2), torch.arange(6) % 3
for name in SELECTORS:
    chosen = select(model, x, y, 2, by=name)
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


def test_holds_the_package_only(root: Path, wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    found = {name for name in names if ".dist-info/" not in name}
    files = {path for path in (root / "seladv").rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert found == {path.relative_to(root).as_posix() for path in files}
    assert [name for name in names if name.endswith(".dist-info/licenses/LICENSE")]


def test_works_without_the_study(root: Path, wheel: Path) -> None:
    version = tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"]
    command = ALONE.format(blocked=STUDY, wheel=str(wheel), version=version)
    done = subprocess.run([sys.executable, "-P", "-c", command], capture_output=True, text=True, check=False, cwd="/")
    assert done.stdout == "works\n", done.stderr
