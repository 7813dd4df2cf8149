"""An arm's name says which samples are attacked, how, and in what it departs from the paper.

clean, full                    none, all
margin-50                      half of every batch, chosen by a criterion of `selection.CRITERIA`
margin-50-stale                by the score that the sample's last visit left behind: no scoring pass
margin-50-whole                the objective in the authors' code: see `training.train.whole_batch`
margin-50-warmup, full-frozen  random selection in the first epochs; batch norm frozen after them
full-k20                       all, by 20 steps of PGD that reach as far
fgsm, nfgsm                    all, by one step: FGSM-RS (Wong et al. 2020), N-FGSM (de Jorge et al. 2022)
"""

import ast
import re
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from seladv.study.places import nearest


def _criteria() -> dict[str, tuple[str, int, bool]]:
    """The table `CRITERIA` of selection/__init__.py, from its text: importing it would import torch."""
    registry = Path(__file__).parents[1] / "selection" / "__init__.py"
    for node in ast.parse(registry.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "CRITERIA" and node.value:
            found: dict[str, tuple[str, int, bool]] = ast.literal_eval(node.value)
            return found
    raise LookupError(f"{registry} has no table CRITERIA")


CRITERIA = _criteria()  # name → (its file, passes, whether it needs only the logits)

SWITCHES = ("stale", "whole", "warmup", "frozen")
BUNDLES = {  # what the authors' code does, all at once
    "as-coded-margin": "margin-sampled-25-whole-warmup-frozen",
    "as-coded-gradmatch": "el2n-sampled-25-whole-warmup-frozen",
}
SINGLE_STEP = {
    "fgsm": {"step_size": 1.25, "start": 1.0, "eps": 1.0},
    "nfgsm": {"step_size": 1.0, "start": 2.0, "eps": 3.0},
}
ALLOWED = (
    "an arm is clean, full, full-k<steps>, fgsm, nfgsm, {bundles} or <criterion>-<percent>, with criterion one of "
    "{criteria} and percent a whole number from 1 to 100, then any of -{switches} in this order"
)


class Arm(NamedTuple):
    """`percent` of every batch is attacked, chosen by `criterion` (none is needed for all or nothing)."""

    criterion: str | None
    percent: int
    switches: tuple[str, ...] = ()
    single_step: str | None = None
    steps: int | None = None

    def count(self, batch: int) -> int:
        """How many of `batch` samples are attacked: k = r·B, rounded down (paper, section "method", step 2)."""
        return batch * self.percent // 100

    def attack(self, settings: dict[str, Any]) -> dict[str, Any]:
        """The settings of `attack.pgd` for a protocol's `eps`, `step_size` and `steps`.

        Fewer steps are longer ones, so that they reach as far: else a cheaper attack could not leave its start. A
        single step is a multiple of eps; N-FGSM starts in twice the ball and is not projected: 3 eps never bind.
        """
        eps, step_size, steps = (settings[name] for name in ("eps", "step_size", "steps"))
        if self.single_step:
            return {"steps": 1, **{name: factor * eps for name, factor in SINGLE_STEP[self.single_step].items()}}
        if self.steps:
            step_size, steps = step_size * steps / self.steps, self.steps
        return {"eps": eps, "step_size": step_size, "steps": steps}


def parse(name: str) -> Arm:
    """Read an arm's name.

    Raises:
        ValueError: it is none; the line says what is allowed.
    """
    switches = "".join(f"(-{switch})?" for switch in SWITCHES)
    if match := re.fullmatch(r"(clean|full|fgsm|nfgsm)(?:-k([1-9]\d{0,3}))?(-frozen)?", name):
        kind, steps, frozen = match.groups()
        if steps is None or kind == "full":
            single = kind if kind in SINGLE_STEP else None
            return Arm(
                None, 0 if kind == "clean" else 100, ("frozen",) * bool(frozen), single, int(steps) if steps else None
            )
    if match := re.fullmatch(rf"(.+?)-([1-9]\d?|100){switches}", BUNDLES.get(name, name)):
        criterion, percent, *present = match.groups()
        chosen = tuple(switch for switch, text in zip(SWITCHES, present, strict=True) if text)
        if criterion in CRITERIA and ("stale" not in chosen or CRITERIA[criterion][2]):
            return Arm(criterion, int(percent), chosen)
    raise ValueError(
        ALLOWED.format(bundles=", ".join(BUNDLES), criteria=", ".join(CRITERIA), switches=", -".join(SWITCHES))
        + nearest(name, _like(name))
    )


def _like(name: str) -> list[str]:
    """Arms that may have been meant: every one, with the numbers of `name`."""
    number = next((each for each in re.findall(r"\d+", name) if 0 < int(each) <= 100 and each[0] != "0"), "50")
    tails = ["".join(f"-{switch}" for switch in chosen if switch) for chosen in product(*((s, "") for s in SWITCHES))]
    selective = [f"{criterion}-{number}{tail}" for criterion, tail in product(CRITERIA, tails)]
    return ["clean", "full", f"full-k{number}", *SINGLE_STEP, *BUNDLES, *selective]
