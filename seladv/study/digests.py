"""What a stage's result depends on in the code: digests of meaning, so that a comment makes nothing stale.

A module counts as its parsed code without comments and docstrings, a notebook as the code of its computing cells.
"""

import ast
import hashlib
import json
from pathlib import Path

from IPython.core.inputtransformer2 import TransformerManager

from seladv.study import arms
from seladv.study.places import StudyError

PACKAGE = Path(__file__).parents[1]
NOTEBOOKS = ("1-data", "2-train", "3-evaluate", "3-autoattack", "3-transfer", "4-fidelity", "4-results", "5-claims")
SILENT = {"figure", "parameters", "injected-parameters"}  # tags of cells that show, or whose values a stage passes
# Modules that no result depends on. The registry names every criterion, and an arm depends on its own. What params.yaml
# says reaches a stage as the stage's parameters. The others find files, try out and estimate hours.
APART = {
    "selection",
    "study.params",
    "study.protocol",
    "study.places",
    "study.digests",
    "training.forecast",
    "training.trial",
}


class _Bare(ast.NodeTransformer):
    """Removes the docstring of every module, class and function."""

    def visit(self, node: ast.AST) -> ast.AST:
        self.generic_visit(node)
        kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        if isinstance(node, kinds) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
        return node


def meaning(source: str) -> str:
    """`source` without comments, docstrings and layout, as code."""
    return ast.unparse(_Bare().visit(ast.parse(source)))


def notebook_code(path: Path) -> str:
    """The code of a notebook's cells that compute: no markdown, no outputs, no cell tagged `figure` or `parameters`.

    Raises:
        StudyError: the file is no notebook, has not exactly one cell tagged `parameters`, or a cell is no Python.
    """
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        tags = [set(cell["metadata"].get("tags", [])) for cell in cells]
        sources = ["".join(cell["source"]) if cell["cell_type"] == "code" else "" for cell in cells]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StudyError(f"{path} is not a notebook ({type(error).__name__}: {' '.join(str(error).split())})") from None
    if (count := sum("parameters" in each for each in tags)) != 1:
        raise StudyError(f"{path} has {count} cells tagged `parameters`; papermill needs exactly one")
    code = [source for source, tag in zip(sources, tags, strict=True) if not tag & SILENT]
    try:
        return meaning(TransformerManager().transform_cell("\n".join(code)))
    except SyntaxError as error:
        raise StudyError(f"{path}: a cell is no Python ({error.msg}): {error.text or ''}".strip()) from None


def closure(imported: set[str]) -> set[str]:
    """The modules `imported` (named from the package on) and all that they import of it, except those `APART`."""
    seen: set[str] = set()
    todo = imported - APART
    while todo:
        seen |= todo
        todo = {name for module in todo for name in _imports(_file(module).read_text(encoding="utf-8"))} - seen - APART
    return seen


def of_notebook(path: Path) -> list[str]:
    """A line `digest  name` for the notebook's code and for every module that it runs."""
    code = notebook_code(path)
    return [_line(code, f"notebooks/{path.name}"), *of_modules(_imports(code))]


def of_arm(name: str) -> list[str]:
    """The same lines for what the training of the arm `name` needs besides: its criterion, and random for a warm-up."""
    arm = arms.parse(name)
    criteria = {arm.criterion} if arm.criterion else set()
    criteria |= {"random"} if "warmup" in arm.switches else set()
    needed = {f"selection.{arms.CRITERIA[criterion][0]}" for criterion in criteria}
    return of_modules(needed | {"selection.topk"} if needed else needed)


def of_run(root: Path, notebook: str, arm: str | None = None) -> str:
    """All lines of a stage, and of an arm's training, as one text."""
    lines = of_notebook(root / "notebooks" / f"{notebook}.ipynb") + (of_arm(arm) if arm else [])
    return "".join(dict.fromkeys(lines))


def of_modules(imported: set[str]) -> list[str]:
    """The same lines for the modules `imported` and all that they import."""
    files = sorted(_file(name) for name in closure(imported))
    return [_line(meaning(file.read_text(encoding="utf-8")), str(file.relative_to(PACKAGE.parent))) for file in files]


def _line(code: str, name: str) -> str:
    return f"{hashlib.sha256(code.encode()).hexdigest()}  {name}\n"


def _file(module: str) -> Path:
    path = PACKAGE.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _imports(code: str) -> set[str]:
    """The modules of the package that `code` imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    found = set()
    for name in names:
        parts = name.split(".")
        while len(parts) > 1 and parts[0] == PACKAGE.name:
            if _file(".".join(parts[1:])).exists():
                found.add(".".join(parts[1:]))
                break
            parts.pop()
    return found
