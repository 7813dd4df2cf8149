"""How good a finished network is on the test set: clean, under every attack, and whether that is to be believed."""

import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from seladv.data.images import Images
from seladv.evaluation import battery, checks, curves
from seladv.evaluation.outcomes import worst_case
from seladv.study.places import StudyError
from seladv.study.protocol import Protocol
from seladv.training.monitor import correct, percent


def evaluate(
    model: nn.Module, test: Images, protocol: Protocol, *, seed: int, saved: Path | None = None
) -> dict[str, Any]:
    """A run's metrics, as JSON can hold them; accuracies in percent, every outcome packed (`evaluation.outcomes`).

    `clean` and `robust` are the paper's evaluation: the protocol's own PGD from one random start. `attacks` holds an
    entry for each attack, on the first `examples` images (`battery.run` says what an entry reports). `worst_case`
    counts the images right under every attack that saw them, among those that the strongest one saw: AutoAttack, which
    has a gradient-free member of its own, or the long PGD where AutoAttack did not run. `curves` and `checklist` tell
    whether the attacks can be trusted.

    The network runs in fp32 whatever it was trained in, so that two machines agree. Randomness comes from
    `seed`: the arms of one seed meet the same one. `saved` is a file that keeps each attack's outcomes: an evaluation
    that was killed goes on with the attack that it was at.

    Raises:
        StudyError: more examples are asked for than the test set has.
    """
    settings = protocol.evaluate
    for name, count in settings.counts().items():
        if count > len(test.labels):
            raise StudyError(f"evaluate.{name} = {count}: the test set has {len(test.labels)}")
    started = time.monotonic()
    data = Images(*(part[: max(settings.counts().values())] for part in test))
    clean = correct(model, data)
    hits, attacks = battery.run(battery.Case(model, data, clean, protocol, seed), saved)
    few = Images(*(part[: settings.curves] for part in data))
    drawn = {
        "eps": curves.against_eps(model, few, clean[: settings.curves], protocol, seed=seed),
        "steps": curves.against_steps(model, few, clean[: settings.curves], protocol, seed=seed),
    }
    strongest = hits.get("autoattack", hits["pgd-strong"])
    worst = worst_case([*hits.values()], examples=len(strongest))
    listed = checks.run(model, data, protocol, seed=seed, hits=hits, curves=drawn)
    return {
        "clean": attacks["clean"]["robust"],
        "robust": attacks["pgd"]["robust"],
        "evaluation": {
            **settings.model_dump(),
            "eps": protocol.eps,
            "precision": "fp32",
            "threads": torch.get_num_threads(),
            "seconds": time.monotonic() - started,
        },
        "attacks": attacks,
        "worst_case": {**battery.entry(worst), "attacks": list(hits)},
        "curves": drawn,
        "checklist": listed,
    }


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
        known[name] = known[twin] if twin else accuracies(model, test, protocol, seed=seed)
    return {name: known[name] for name in models}


def accuracies(model: nn.Module, test: Images, protocol: Protocol, *, seed: int) -> dict[str, float]:
    """`clean` and `robust` as in `evaluate`, and nothing else: for the networks that the tables do not show."""
    data = Images(*(part[: protocol.evaluate.examples] for part in test))
    case = battery.Case(model, data, correct(model, data), protocol, seed)
    return {"clean": percent(case.clean), "robust": percent(battery.pgd(case)[0])}


def _same(model: nn.Module, other: nn.Module) -> bool:
    theirs = other.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in model.state_dict().items())
