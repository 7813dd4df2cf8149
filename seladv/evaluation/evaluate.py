"""How good a finished network is on the test set: clean, and under every attack but AutoAttack."""

import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from seladv.attack import eval_mode, pgd
from seladv.data.images import Images, stream
from seladv.evaluation.attacks import entry, full_fp32, sign_noise, surviving
from seladv.evaluation.outcomes import subset
from seladv.gradient import input_gradient
from seladv.study import places
from seladv.study.protocol import Protocol
from seladv.training.monitor import correct, percent

STRONG_STEPS, STRONG_RESTARTS = 100, 5
FACTORS = (0.25, 0.5, 0.75, 1, 1.25, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)  # of eps, in the curve against it

Outcome = tuple[Tensor, dict[str, Any]]  # which images survive [N], bool, and the attack's settings


class Case(NamedTuple):
    """What an attack works on: a network, test images [N], which of them are right clean [N], bool."""

    model: nn.Module
    data: Images
    clean: Tensor
    protocol: Protocol
    seed: int

    def random(self, purpose: str) -> torch.Generator:
        """The arms of one seed meet the same randomness."""
        return stream(self.seed, purpose, self.data.labels.device)

    def on_subset(self) -> "Case":
        """The same with the protocol's subset of the images."""
        chosen = subset(self.data.labels, self.protocol.evaluate.subset)
        return self._replace(data=Images(*(part[chosen] for part in self.data)), clean=self.clean[chosen.cpu()])


def clean(case: Case) -> Outcome:
    """No attack at all."""
    return case.clean, {}


def protocol_pgd(case: Case) -> Outcome:
    """The protocol's own PGD, as the paper evaluates; every image is attacked, the lost ones too."""
    evaluate = case.protocol.evaluate
    settings: dict[str, Any] = {"eps": case.protocol.eps, "step_size": evaluate.step_size, "steps": evaluate.steps}
    attack = partial(pgd, **settings, generator=case.random("evaluation"))
    # An image lost already is not won back by an attack.
    return case.clean & correct(case.model, case.data, attack=attack), settings


def strong_pgd(case: Case) -> Outcome:
    """The worst of several long PGDs, with steps of 2.5 eps / steps: enough to reach any edge of the ball."""
    eps, hits = case.protocol.eps, case.clean
    settings: dict[str, Any] = {"eps": eps, "step_size": 2.5 * eps / STRONG_STEPS, "steps": STRONG_STEPS}
    attack = partial(pgd, **settings, generator=case.random("evaluation strong"))
    for _ in range(STRONG_RESTARTS):
        hits = surviving(case.model, case.data, hits, attack)
    return hits, {**settings, "restarts": STRONG_RESTARTS}


def fgsm(case: Case) -> Outcome:
    """One sign step of size eps, from the image itself (Goodfellow et al. 2015)."""
    eps = case.protocol.eps
    attack = partial(pgd, eps=eps, step_size=eps, steps=1, start=0)
    return surviving(case.model, case.data, case.clean, attack), {"eps": eps}


def noise(case: Case) -> Outcome:
    """Random signs of size eps, once."""
    eps, generator = case.protocol.eps, case.random("evaluation noise")
    attack = lambda m, x, y: sign_noise(x, eps=eps, generator=generator)  # noqa: E731
    return surviving(case.model, case.data, case.clean, attack), {"eps": eps}


ON_ALL: dict[str, Callable[[Case], Outcome]] = {"clean": clean, "pgd": protocol_pgd}  # on the whole test set
ON_SUBSET: dict[str, Callable[[Case], Outcome]] = {"pgd-strong": strong_pgd, "fgsm": fgsm, "noise": noise}


@full_fp32()
def evaluate(
    model: nn.Module, test: Images, protocol: Protocol, *, seed: int, saved: Path | None = None
) -> dict[str, Any]:
    """A run's metrics, as JSON can hold them; accuracies in percent, every outcome packed (`evaluation.outcomes`).

    `clean` and `robust` are the paper's evaluation: all test images, the protocol's own PGD from one random start.
    `attacks` holds an entry for each attack, right on the clean image *and* under this attack; those of `ON_SUBSET` and
    the `curves` see the images `evaluation.subset` of the test set. Images that are wrong unattacked are not attacked
    there. `zero_gradients` counts the images of the subset whose loss has an all-zero gradient.

    The network runs in fp32 whatever it was trained in, so that two machines agree. Randomness comes from
    `seed`: the arms of one seed meet the same one. `saved` is a file that keeps each attack's outcomes: an evaluation
    that was killed goes on with the attack that it was at.

    Raises:
        StudyError: the subset is larger than the test set.
    """
    started = time.monotonic()
    whole = Case(model, test, correct(model, test), protocol, seed)
    few = whole.on_subset()
    attacks: dict[str, Any] = json.loads(saved.read_text()) if saved and saved.exists() else {}
    for name, attack in (ON_ALL | ON_SUBSET).items():
        if name not in attacks:
            begun = time.monotonic()
            hits, settings = attack(whole if name in ON_ALL else few)
            attacks[name] = {**entry(hits), "settings": settings, "seconds": time.monotonic() - begun}
            print(f"{name}: {percent(hits):.2f} % of {len(hits)} images, {attacks[name]['seconds']:.0f} s", flush=True)
            if saved:
                places.write_json(saved, attacks)
    curves = {"eps": against_eps(few), "steps": against_steps(few)}
    asked = {**protocol.evaluate.model_dump(), "subset": subset(test.labels, protocol.evaluate.subset).tolist()}
    measured = {"eps": protocol.eps, "precision": "fp32"}
    return {
        "clean": attacks["clean"]["robust"],
        "robust": attacks["pgd"]["robust"],
        "evaluation": {**asked, **measured, "seconds": time.monotonic() - started},
        "attacks": attacks,
        "curves": curves,
        "zero_gradients": zero_gradients(few),
    }


def point(case: Case, *, eps: float, step_size: float, steps: int) -> dict[str, Any]:
    """A curve's point under PGD with these settings. All points of a curve have the same random starts."""
    attack = partial(pgd, eps=eps, step_size=step_size, steps=steps, generator=case.random("curves"))
    return {"eps": eps, "steps": steps, **entry(surviving(case.model, case.data, case.clean, attack))}


def against_eps(case: Case) -> list[dict[str, Any]]:
    """Points from eps = 0 until nothing is right any more or eps = 1.

    The step size grows with eps, and the steps together reach any edge of the ball.
    """
    points = [{"eps": 0.0, "steps": 0, **entry(case.clean)}]
    asked = case.protocol.evaluate
    for factor in FACTORS:
        eps = min(factor * case.protocol.eps, 1.0)
        step_size = max(min(factor * asked.step_size, 1.0), 2.5 * eps / asked.steps)
        points.append(point(case, eps=eps, step_size=step_size, steps=asked.steps))
        if points[-1]["robust"] == 0 or eps == 1:
            break
    return points


def step_counts(steps: int) -> list[int]:
    """1, 2, 5, 10, 20, 40, ... up to twice `steps`; `steps` and its double are always among them."""
    doubling = (10 * 2**power for power in range(steps.bit_length()))
    return sorted({1, 2, 5, *doubling, steps, 2 * steps} & {*range(1, 2 * steps + 1)})


def against_steps(case: Case) -> list[dict[str, Any]]:
    """Points at the protocol's eps and step size, for each of `step_counts`."""
    settings = {"eps": case.protocol.eps, "step_size": case.protocol.evaluate.step_size}
    return [point(case, **settings, steps=steps) for steps in step_counts(case.protocol.evaluate.steps)]


def zero_gradients(case: Case) -> int:
    """How many images' loss has no gradient at all, which leaves a gradient attack where it started."""
    with eval_mode(case.model):
        flat = [input_gradient(case.model, x, y).flatten(1).abs().amax(dim=1) == 0 for x, y in case.data.batches(250)]
    return int(torch.cat(flat).sum())


@full_fp32()
def checkpoints(
    models: dict[str, nn.Module], test: Images, protocol: Protocol, *, seed: int, headline: dict[str, float]
) -> dict[str, dict[str, float]]:
    """`clean` and `robust` of every network that a run left, `models`, by its name.

    `headline` are those of the protocol's headline network, which `evaluate` has measured already. A network with the
    same weights as another, as the best one of a run whose last epoch was its best, is not evaluated twice.
    """
    known: dict[str, dict[str, float]] = {protocol.headline: headline}
    for name, model in models.items():
        twin = next((other for other in known if _same(model, models[other])), None)
        if twin:
            known[name] = known[twin]
        else:
            case = Case(model, test, correct(model, test), protocol, seed)
            known[name] = {"clean": percent(case.clean), "robust": percent(protocol_pgd(case)[0])}
    return {name: known[name] for name in models}


def _same(model: nn.Module, other: nn.Module) -> bool:
    theirs = other.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in model.state_dict().items())
