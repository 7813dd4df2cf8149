"""The reference page is made of docstrings, so every public name has one."""

import importlib
import inspect
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import seladv

MODULES = sorted({"seladv", *(module.name for module in pkgutil.walk_packages(seladv.__path__, "seladv."))})
LIBRARY = [  # what another project's loop calls
    "attack", "frozen", "gradient", "guard", "selection", "selection.topk", "selection.gradmatch",
    "selection.gradmatch_trace", "selection.last_layer", "training.models",
]  # fmt: skip


def public(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """The functions and classes that `module` defines itself, and their methods, by name."""
    for name, value in vars(module).items():
        if name.startswith("_") or getattr(value, "__module__", None) != module.__name__:
            continue
        if inspect.isfunction(value):
            yield name, value
        elif inspect.isclass(value):
            yield name, value
            methods = ((f"{name}.{each}", method) for each, method in vars(value).items() if not each.startswith("_"))
            yield from (item for item in methods if inspect.isfunction(item[1]))


@pytest.mark.parametrize("name", MODULES)
def test_everything_public_has_a_docstring(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__doc__
    silent = [
        each
        for each, value in public(module)
        if not (value.__doc__ or "").strip() and each.partition(".")[2] not in overridden(module, each)
    ]
    assert {*silent} == set()


def overridden(module: ModuleType, name: str) -> set[str]:
    """The methods of a class that bases of other modules document."""
    kind = getattr(module, name.partition(".")[0])
    if not inspect.isclass(kind):
        return set()
    return {method for base in kind.__mro__[1:] for method in vars(base) if base.__module__ != module.__name__}


@pytest.mark.parametrize("name", LIBRARY)
def test_docstrings_list_errors(name: str) -> None:
    """A public function whose own body raises has a section for it."""
    module = importlib.import_module(f"seladv.{name}")
    for each, value in public(module):
        if inspect.isfunction(value) and "raise ValueError" in inspect.getsource(value):
            assert "Raises:" in value.__doc__ or each == "highest", each  # the selector that it returns has it


def test_page_of_every_module(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pdoc", "--docformat", "google", "--no-show-source", "-o", tmp_path, "seladv"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Error importing" not in done.stderr
    pages = {
        path.relative_to(tmp_path).with_suffix("").as_posix().replace("/", ".") for path in tmp_path.rglob("*.html")
    }
    assert pages >= {*MODULES}
    assert "images must lie" not in (tmp_path / "seladv/attack.html").read_text()  # the docstring, not the source
    assert "projection" in (tmp_path / "seladv/attack.html").read_text()
