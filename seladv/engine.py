"""Run a notebook through papermill, its cells in this very process: no kernel to start, the same outputs."""

import ast
import io
import sys
from binascii import b2a_base64
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import papermill
from IPython.core.displayhook import DisplayHook
from IPython.core.displaypub import DisplayPublisher
from IPython.core.interactiveshell import InteractiveShell
from nbformat import NotebookNode
from nbformat.v4 import new_output
from papermill.engines import Engine, NotebookExecutionManager, papermill_engines
from papermill.exceptions import PapermillExecutionError
from traitlets import Type
from traitlets.config import Config

USAGE = "usage: python -m seladv.stage NOTEBOOK OUTPUT [NAME=VALUE ...]"
INTERRUPTED = 130  # what shells report for a process that Ctrl-C ended


class Publisher(DisplayPublisher):
    """`display(...)`, into the cell."""

    def publish(self, data, metadata=None, *_: Any, transient=None, update=False, **__: Any) -> None:  # type: ignore[no-untyped-def]
        name = (transient or {}).get("display_id")
        self.shell.record("display_data", data=data, metadata=metadata, name=name, update=update)

    def clear_output(self, wait: bool = False) -> None:
        self.shell.cell.outputs.clear()


class Hook(DisplayHook):
    """The value of a cell's last line, into the cell."""

    def write_output_prompt(self) -> None: ...

    def write_format_data(self, format_dict: dict[str, Any], md_dict: dict[str, Any] | None = None) -> None:
        self.shell.record("execute_result", data=format_dict, metadata=md_dict, execution_count=self.prompt_count)

    def finish_displayhook(self) -> None:
        self._is_active = False


class Shell(InteractiveShell):
    """IPython, with all that a cell shows recorded in `cell`."""

    displayhook_class, display_pub_class = Type(Hook), Type(Publisher)
    cell = NotebookNode(outputs=[])

    def record(self, kind: str, *, name: str | None = None, update: bool = False, **content: Any) -> None:
        """Append an output to the cell; one of the same display `name` is replaced where `update` says so."""
        if data := content.get("data"):
            content["data"] = {k: b2a_base64(v).decode() if isinstance(v, bytes) else v for k, v in data.items()}
            content["metadata"] = content["metadata"] or {}
        if update and name in self.displayed:
            self.displayed[name].update(content)
        else:
            self.cell.outputs.append(new_output(kind, **content))
            self.displayed[name] = self.cell.outputs[-1]

    def _showtraceback(self, etype: type[BaseException], evalue: BaseException, stb: list[str]) -> None:
        self.record("error", ename=etype.__name__, evalue=str(evalue), traceback=stb)

    def run(self, cell: NotebookNode) -> bool:
        """Run one cell; false where it failed."""
        self.cell, cell.execution_count = cell, self.execution_count
        result = self.run_cell(cell.source, store_history=True)
        error = result.error_before_exec or result.error_in_exec
        if error and not any(output.output_type == "error" for output in cell.outputs):  # IPython printed it only
            self._showtraceback(type(error), error, [f"{type(error).__name__}: {error}"])
        return error is None


class Stream(io.TextIOBase):
    """stdout or stderr: on to where it led before, at once, and into the running cell."""

    def __init__(self, name: str, onward: Any, shell: Shell, manager: NotebookExecutionManager):
        self.name, self.onward, self.shell, self.manager = name, onward, shell, manager

    def write(self, text: str) -> int:
        self.onward.write(text)
        self.onward.flush()
        outputs = self.shell.cell.outputs
        if outputs and outputs[-1].get("name") == self.name:
            outputs[-1].text += text
        else:
            outputs.append(new_output("stream", name=self.name, text=text))
        self.manager.autosave_cell()  # a long cell can be watched in the notebook
        return len(text)

    def fileno(self) -> int:
        return int(self.onward.fileno())


class InProcess(Engine):
    """papermill's engine over `Shell`. A cell that fails ends the run, as it does with a kernel."""

    @classmethod
    def execute_managed_notebook(cls, nb_man: NotebookExecutionManager, kernel_name: str, **_: Any) -> None:
        quiet = Config({"HistoryManager": {"enabled": False}})
        shell = Shell.instance(config=quiet)
        shell.displayed = {}
        out, err = (Stream(name, getattr(sys, name), shell, nb_man) for name in ("stdout", "stderr"))
        with redirect_stdout(out), redirect_stderr(err):
            for index, cell in enumerate(nb_man.nb.cells):
                nb_man.cell_start(cell, index)
                ok = cell.cell_type != "code" or not cell.source.strip() or shell.run(cell)
                if not ok:
                    nb_man.cell_exception(cell, index)
                nb_man.cell_complete(cell, index)
                if not ok:
                    return


def value(text: str) -> Any:
    """A number, True, False or None where `text` is one; else `text` itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def execute(notebook: str, output: str, parameters: dict[str, Any]) -> None:
    """Execute `notebook` with `parameters`, and keep it as `output`, be it with the traceback of a failing cell.

    Raises:
        ValueError: a parameter is none of the notebook's.
        PapermillExecutionError: a cell failed.
    """
    known = papermill.inspect_notebook(notebook)
    if unknown := [name for name in parameters if name not in known]:
        raise ValueError(f"{notebook} has no parameter {unknown[0]!r}; it has: {', '.join(known) or 'none'}")
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    papermill_engines.register("in-process", InProcess)
    papermill.execute_notebook(notebook, output, parameters, engine_name="in-process", progress_bar=False)


def run(arguments: Sequence[str]) -> int:
    """The exit code of a stage. A failure is one line on stderr, the last one."""
    try:
        if len(arguments) < 2 or not all("=" in argument for argument in arguments[2:]):
            raise ValueError(USAGE)
        notebook, output, *settings = arguments
        pairs = (setting.split("=", 1) for setting in settings)
        execute(notebook, output, {name: value(text) for name, text in pairs})
    except PapermillExecutionError as error:
        print(f"{line(error.evalue)} ({error.ename}; traceback: {output})".lstrip(), file=sys.stderr)
        return INTERRUPTED if error.ename == "KeyboardInterrupt" else 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        print(line(error) or type(error).__name__, file=sys.stderr)
        return 1
    return 0


def line(message: object) -> str:
    """`message` as one line."""
    return " ".join(str(message).split())
