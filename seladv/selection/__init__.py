"""Which samples of a batch to attack: every criterion by its name.

A new criterion is a function `score(model, x, y, generator) -> [B]` in a file of this folder, and a line in `CRITERIA`.
"""

from importlib import import_module

import torch
from torch import LongTensor, Tensor, nn

from seladv.selection.topk import Score, Selector, highest

# name → (the file of its function, passes through the network for scoring one sample, whether it needs only the logits)
CRITERIA: dict[str, tuple[str, int, bool]] = {
    "random": ("random", 0, False),
    "margin": ("margin", 1, True),
    "gradmatch": ("gradmatch", 3, False),
    "gradmatch-last": ("last_layer", 1, False),
    "gradmatch-logit": ("last_layer", 1, True),
    "graddot": ("gradmatch", 3, False),
    "el2n": ("el2n", 1, True),
    "easy": ("margin", 1, True),
    "margin-sampled": ("margin", 1, True),
    "el2n-sampled": ("el2n", 1, True),
}


def _score(name: str) -> Score:
    score: Score = getattr(import_module(f"{__name__}.{CRITERIA[name][0]}"), name.replace("-", "_"))
    return score


SCORES: dict[str, Score] = {name: _score(name) for name in CRITERIA}
SELECTORS: dict[str, Selector] = {name: highest(score) for name, score in SCORES.items()}


def select(
    model: nn.Module, x: Tensor, y: Tensor, k: int, *, by: str = "margin", generator: torch.Generator | None = None
) -> LongTensor:
    """Indices [k] of the samples of a batch that the criterion `by` scores highest, best first.

    Args:
        model: maps images to logits [B, classes]; scored in eval mode and left as it was.
        x: images [B, ...].
        y: true classes [B], int64.
        k: how many to select.
        by: a key of `SELECTORS`.
        generator: source of randomness of the criteria that draw; the default generator if not given.

    Raises:
        ValueError: unknown criterion, k not between 0 and B, or x and y of different lengths.
    """
    if by not in SELECTORS:
        raise ValueError(f"select: unknown criterion {by!r}; choose one of {', '.join(SELECTORS)}")
    return SELECTORS[by](model, x, y, k, generator=generator)
