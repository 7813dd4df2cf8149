"""A bar for the person who watches a run; nothing in a log."""

import os
import sys
from typing import Any

from tqdm import tqdm


def watched() -> bool:
    """Whether somebody sees this: a terminal, or JupyterLab, which names its notebook to the kernel."""
    terminal = sys.__stderr__ is not None and sys.__stderr__.isatty()
    return terminal or "JPY_SESSION_NAME" in os.environ


def bar(title: str, *, total: int, done: int = 0) -> "tqdm[Any]":
    """Batches done and to do, with the time left, on `title`'s line; gone when finished."""
    file = sys.stderr if "JPY_SESSION_NAME" in os.environ else sys.__stderr__
    return tqdm(total=total, initial=done, desc=title, unit="batch", leave=False, file=file, disable=not watched())
