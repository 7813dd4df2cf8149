"""Which samples of a batch to attack: every criterion by its name.

A new criterion is a function `score(model, x, y, generator) -> [B]` in a file of this folder, and a line in `CRITERIA`.
`select` takes such a function as it is.
"""

from difflib import get_close_matches
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


def _unknown(name: object) -> str:
    nearest = get_close_matches(str(name).lower().replace("_", "-"), CRITERIA, n=1, cutoff=0)[0]
    return f"unknown criterion {name!r}; choose one of {', '.join(CRITERIA)}; the nearest is {nearest!r}"


class _Selectors(dict[str, Selector]):
    def __missing__(self, name: str) -> Selector:
        raise KeyError(_unknown(name))


SELECTORS: dict[str, Selector] = _Selectors({name: highest(score) for name, score in SCORES.items()})


def select(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    k: int,
    *,
    by: str | Score = "margin",
    generator: torch.Generator | None = None,
) -> LongTensor:
    """Indices [k] of the samples of a batch that the criterion `by` scores highest, best first.

    Args:
        model: maps images to logits [B, classes]; scored in eval mode and left as it was.
        x: images [B, ...], floating-point.
        y: true classes [B], integers; [B, 1] is taken as [B].
        k: how many to select.
        by: a key of `SELECTORS`, or a function `score(model, x, y, generator) -> [B]`, called without gradients.
        generator: source of randomness of the criteria that draw; the default generator if not given.

    Raises:
        ValueError: unknown criterion, k not between 0 and B, or images, labels, scores or the network's output that are
            not as above (`seladv.guard`).
    """
    if callable(by):
        return highest(by)(model, x, y, k, generator=generator)
    if not isinstance(by, str) or by not in SELECTORS:
        raise ValueError(f"select: {_unknown(by)}")
    return SELECTORS[by](model, x, y, k, generator=generator)
