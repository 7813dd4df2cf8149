"""What this package refuses is shown as its one line, and not below a traceback: on a command line and in JupyterLab.

The messages say what, where and what to do; the frames between a cell and the line that refused add nothing. Whatever
nobody foresaw keeps its traceback, and a stage's executed notebook keeps all.
"""

import inspect
import linecache
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

PACKAGE = Path(__file__).parent


def refused(error: BaseException) -> bool:
    """Whether a `raise` of this package made `error`, a mistake of the user's rather than of the code."""
    place = error.__traceback__
    while place and place.tb_next:
        place = place.tb_next
    if place is None or not isinstance(error, ValueError | RuntimeError | OSError):
        return False
    file = Path(place.tb_frame.f_code.co_filename)
    return file.is_relative_to(PACKAGE) and linecache.getline(str(file), place.tb_lineno).lstrip().startswith("raise ")


def line(error: BaseException) -> str:
    """The message of `error` as one line."""
    return " ".join(str(error).split())


def command(run: Callable[..., None], *, usage: str) -> None:
    """Run `run` with the command line's arguments; exit with 1 and a line where they do not fit, or it refuses."""
    try:
        inspect.signature(run).bind(*sys.argv[1:])
    except TypeError:
        sys.exit(f"usage: {usage}")
    try:
        run(*sys.argv[1:])
    except Exception as error:
        if not refused(error):
            raise
        sys.exit(line(error))


def install() -> None:
    """Have the Jupyter kernel that runs this, if one does, show what is `refused` as a line."""
    ipython = sys.modules.get("IPython")
    shell: Any = ipython.get_ipython() if ipython else None
    if type(shell).__name__ == "ZMQInteractiveShell":
        shell.set_custom_exc((ValueError, RuntimeError, OSError), _show)


def _show(
    shell: Any, kind: type[BaseException], error: BaseException, trace: TracebackType, tb_offset: int | None = None
) -> None:
    if refused(error):
        shell._showtraceback(kind, error, [f"{kind.__name__}: {line(error)}"])
    else:
        shell.showtraceback((kind, error, trace), tb_offset=tb_offset)
