"""One notebook with its parameters, run through papermill; a failure is one line."""

import ast
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import papermill
from papermill.engines import papermill_engines
from papermill.exceptions import PapermillExecutionError

from seladv.engine import InProcess
from seladv.memory import keep_freed

USAGE = "usage: python -m seladv.stage NOTEBOOK OUTPUT [NAME=VALUE ...]"
INTERRUPTED = 130  # what a shell reports of a process that Ctrl-C ended


def execute(notebook: str, output: str, parameters: dict[str, Any]) -> None:
    """Execute `notebook` with `parameters`, and keep it as `output`, be it with the traceback of a failing cell.

    Raises:
        ValueError: there is no such notebook, or a parameter is none of the notebook's.
        PapermillExecutionError: a cell failed.
    """
    path = Path(notebook)
    if not path.is_file() or path.suffix != ".ipynb":
        there = ", ".join(sorted(found.name for found in path.parent.glob("*.ipynb")))
        raise ValueError(f"{notebook} is no notebook; in its folder are: {there or 'none'}")
    known = papermill.inspect_notebook(notebook)
    if unknown := [name for name in parameters if name not in known]:
        raise ValueError(f"{notebook} has no parameter {unknown[0]!r}; it has: {', '.join(known) or 'none'}")
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    papermill_engines.register("in-process", InProcess)
    papermill.execute_notebook(notebook, output, parameters, engine_name="in-process", progress_bar=False)


def run(arguments: Sequence[str]) -> int:
    """The exit code of a stage, from its command line. Where it fails, the last line on stderr says why."""
    keep_freed()
    try:
        if len(arguments) < 2 or not all("=" in setting for setting in arguments[2:]):
            raise ValueError(USAGE)
        notebook, output, *settings = arguments
        pairs = (setting.split("=", 1) for setting in settings)
        execute(notebook, output, {name: value(text) for name, text in pairs})
    except PapermillExecutionError as error:
        print(f"{line(error.evalue)} ({error.ename}; traceback in {output})".lstrip(), file=sys.stderr)
        return INTERRUPTED if error.ename == "KeyboardInterrupt" else 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        print(line(error) or type(error).__name__, file=sys.stderr)
        return 1
    return 0


def value(text: str) -> Any:
    """The number, True, False, None or other literal that `text` is; else `text` itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def line(message: object) -> str:
    """`message` as one line."""
    return " ".join(str(message).split())
