"""Which samples of a batch are worth attacking: every criterion by its name.

A new rule is a file in `seladv/criteria` with one function, and its name in the tuple below.
"""

from types import ModuleType

from seladv.criteria import (
    easy,
    el2n,
    el2n_sampled,
    graddot,
    gradmatch,
    gradmatch_last,
    gradmatch_logit,
    margin,
    margin_sampled,
    random,
)
from seladv.selector import Selector, highest

_MODULES = (
    random, margin, gradmatch, gradmatch_last, gradmatch_logit, graddot, el2n, easy, margin_sampled, el2n_sampled,
)  # fmt: skip
CRITERIA: dict[str, ModuleType] = {module.__name__.split(".")[-1].replace("_", "-"): module for module in _MODULES}
SELECTORS: dict[str, Selector] = {name: highest(module.score) for name, module in CRITERIA.items()}
