"""papermill's engine without a kernel: cells run in this very process, and leave the same outputs."""

import io
import sys
from binascii import b2a_base64
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

from IPython.core.displayhook import DisplayHook
from IPython.core.displaypub import DisplayPublisher
from IPython.core.interactiveshell import InteractiveShell
from nbformat import NotebookNode
from nbformat.v4 import new_output
from papermill.engines import Engine, NotebookExecutionManager
from traitlets import Type
from traitlets.config import Config


class Publisher(DisplayPublisher):
    """`display(...)`, into the cell."""

    shell: "Shell"

    def publish(
        self,
        data: dict[str, Any],
        metadata: dict[str, Any] | None = None,
        *_: Any,
        transient: dict[str, Any] | None = None,
        update: bool = False,
        **__: Any,
    ) -> None:
        name = (transient or {}).get("display_id")
        self.shell.record("display_data", data=data, metadata=metadata, name=name, update=update)

    def clear_output(self, wait: bool = False) -> None:
        self.shell.cell.outputs.clear()


class Hook(DisplayHook):
    """The value of a cell's last line, into the cell."""

    def write_output_prompt(self) -> None: ...

    def write_format_data(self, format_dict: dict[str, Any], md_dict: dict[str, Any] | None = None) -> None:
        count = self.prompt_count
        self.shell.record("execute_result", data=format_dict, metadata=md_dict, execution_count=count)  # type: ignore[union-attr]

    def finish_displayhook(self) -> None:
        self._is_active = False


class Shell(InteractiveShell):
    """IPython, with all that a cell shows recorded in `cell`."""

    displayhook_class, display_pub_class = Type(Hook), Type(Publisher)
    cell = NotebookNode(outputs=[])
    displayed: dict[str | None, NotebookNode]  # outputs by the name that `display(..., display_id=...)` gave them

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

    encoding = "utf-8"

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


class InProcess(Engine):  # type: ignore[misc]
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
