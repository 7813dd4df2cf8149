"""Selective adversarial training: attack only the samples of a batch that a criterion chooses.

`pgd` and `select` work in any PyTorch training loop; `SELECTORS` lists the criteria by name. The rest of the package is
the study around them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str
    from seladv.attack import pgd as pgd
    from seladv.selection import SELECTORS as SELECTORS
    from seladv.selection import select as select

# No __all__: pdoc would list these names alone, and could not resolve them.
_HOMES = {"pgd": "seladv.attack", "select": "seladv.selection", "SELECTORS": "seladv.selection"}


def __getattr__(name: str) -> Any:
    """Import torch only when it is needed: the check of params.yaml does without it."""
    if name == "__version__":
        return import_module("importlib.metadata").version("seladv")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, "__version__"})
