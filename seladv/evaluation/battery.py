"""The named attacks of the evaluation: what each does, and how many test images it sees."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from seladv.data.images import Images, stream
from seladv.evaluation.attacks import fgsm, pgd_attack, sign_noise, surviving, worst_of
from seladv.evaluation.autoattack import autoattack
from seladv.evaluation.outcomes import pack, unpack
from seladv.study import places
from seladv.study.protocol import Protocol
from seladv.training.monitor import correct, percent

STRONG_STEPS, STRONG_RESTARTS = 100, 5


class Case(NamedTuple):
    """What an attack works on: a network, the test images that it sees [N], which of them are right clean [N]."""

    model: nn.Module
    data: Images
    clean: Tensor
    protocol: Protocol
    seed: int

    def random(self, purpose: str) -> torch.Generator:
        """The arms of one seed meet the same randomness."""
        return stream(self.seed, purpose, self.data.labels.device)


Outcome = tuple[Tensor, dict[str, Any]]  # which images survive [N], bool, and the attack's settings


def clean(case: Case) -> Outcome:
    """No attack at all."""
    return case.clean, {}


def pgd(case: Case) -> Outcome:
    """The protocol's own PGD, as the paper evaluates; every image is attacked, the lost ones too."""
    evaluate = case.protocol.evaluate
    settings: dict[str, Any] = {"eps": case.protocol.eps, "step_size": evaluate.step_size, "steps": evaluate.steps}
    attack = pgd_attack(**settings, generator=case.random("evaluation"))
    # An image lost already is not won back by an attack.
    return case.clean & correct(case.model, case.data, attack=attack), settings


def pgd_strong(case: Case) -> Outcome:
    """The worst of several long PGDs, with steps of 2.5 eps / steps: enough to reach any edge of the ball."""
    eps = case.protocol.eps
    settings: dict[str, Any] = {"eps": eps, "step_size": 2.5 * eps / STRONG_STEPS, "steps": STRONG_STEPS}
    attack = pgd_attack(**settings, generator=case.random("evaluation strong"))
    hits = worst_of(case.model, case.data, case.clean, [attack] * STRONG_RESTARTS)
    return hits, {**settings, "restarts": STRONG_RESTARTS}


def auto(case: Case) -> Outcome:
    """AutoAttack's standard version, the worst of its four members."""
    hits, warnings = autoattack(case.model, case.data, eps=case.protocol.eps, seed=case.seed)
    return hits, {"eps": case.protocol.eps, "version": "standard", "seed": case.seed, "warnings": warnings}


def square(case: Case) -> Outcome:
    """AutoAttack's gradient-free member alone."""
    settings: dict[str, Any] = {"eps": case.protocol.eps, "queries": case.protocol.evaluate.queries, "seed": case.seed}
    return autoattack(case.model, case.data, members=("square",), **settings).hits, settings


def single_step(case: Case) -> Outcome:
    """One step of size eps, from the image itself."""
    eps = case.protocol.eps
    return surviving(case.model, case.data, case.clean, lambda m, x, y: fgsm(m, x, y, eps=eps)), {"eps": eps}


def noise(case: Case) -> Outcome:
    """Random signs of size eps, once."""
    eps, generator = case.protocol.eps, case.random("evaluation noise")
    attack = lambda m, x, y: sign_noise(x, eps=eps, generator=generator)  # noqa: E731
    return surviving(case.model, case.data, case.clean, attack), {"eps": eps}


ATTACKS: dict[str, tuple[str, Callable[[Case], Outcome]]] = {  # name → the setting that counts its images, and itself
    "clean": ("examples", clean),
    "pgd": ("examples", pgd),
    "pgd-strong": ("strong", pgd_strong),
    "autoattack": ("autoattack", auto),
    "square": ("square", square),
    "fgsm": ("fgsm", single_step),
    "noise": ("noise", noise),
}


def run(case: Case, saved: Path | None = None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Every attack on the first images of `case`: its outcomes [N_attack], bool, and its entry in the metrics.

    Each entry reports that attack alone: right on the clean image *and* right under this attack. Images that the
    network gets wrong unattacked are therefore not attacked (the protocol's own PGD excepted: its random starts
    must not depend on them). The worst case over attacks is not taken here.

    `saved` is a file that keeps the entries after every attack: what it has already is not done again.
    """
    counts = case.protocol.evaluate.counts()
    if case.seed not in case.protocol.evaluate.autoattack_seeds:
        counts["autoattack"] = 0
    entries: dict[str, Any] = json.loads(saved.read_text()) if saved and saved.exists() else {}
    hits: dict[str, Tensor] = {}
    for name, (setting, attack) in ATTACKS.items():
        if (n := counts[setting]) == 0:
            continue
        if name not in entries:
            started = time.monotonic()
            data = Images(*(part[:n] for part in case.data))
            found, settings = attack(case._replace(data=data, clean=case.clean[:n]))
            entries[name] = {**entry(found), "settings": settings, "seconds": time.monotonic() - started}
            line = "{robust:.2f} % of {examples} images, {seconds:.0f} s".format_map(entries[name])
            print(f"{name}: {line}", flush=True)
            if saved:
                places.write_json(saved, entries)
        hits[name] = unpack(entries[name]["outcomes"], n)
    return hits, entries


def entry(hits: Tensor) -> dict[str, Any]:
    """What the metrics say of outcomes [N]: robust accuracy in percent, N, and the outcomes themselves."""
    return {"robust": percent(hits), "examples": len(hits), "outcomes": pack(hits)}
