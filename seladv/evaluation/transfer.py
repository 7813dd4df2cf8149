"""Examples made on one arm's network, tried on another's: they must not do more than the white-box attack does.

Where they do, the gradients of the attacked network mislead: its own attack is beaten by one that never saw it.
"""

from collections.abc import Mapping
from typing import Any

import torch
from scipy.stats import binomtest
from torch import Tensor, nn

from seladv.attack import eval_mode
from seladv.data.images import Images, stream
from seladv.evaluation.attacks import pgd_attack
from seladv.evaluation.checks import Check, at_least_as_strong, check
from seladv.study.places import StudyError
from seladv.study.protocol import Protocol
from seladv.training.monitor import correct, percent

LEVEL = 0.05
NAME = "white-box-beats-transfer"
Outcomes = dict[tuple[str, str], Tensor]  # (source, target) → which images the target still gets right [N], bool


def outcomes(networks: Mapping[str, nn.Module], test: Images, protocol: Protocol, *, seed: int) -> Outcomes:
    """Every network under the protocol's PGD on every network; where source and target are one, that is white-box.

    Args:
        networks: arm → its network, all of one seed, on the device of `test`.
        test: the test set; its first `evaluate.transfer` images are attacked, from the same random start by all.
        protocol, seed: whose attack, and what its random start depends on.

    Raises:
        StudyError: more examples are asked for than the test set has.
    """
    count = protocol.evaluate.transfer
    if count > len(test.labels):
        raise StudyError(f"evaluate.transfer = {count}: the test set has {len(test.labels)}")
    data = Images(*(part[:count] for part in test))
    clean = {arm: correct(model, data) for arm, model in networks.items()}
    settings = {name: getattr(protocol.evaluate, name) for name in ("step_size", "steps")}
    found: Outcomes = {}
    for source, model in networks.items():
        attack = pgd_attack(eps=protocol.eps, **settings, generator=stream(seed, "transfer", data.labels.device))
        batches = [(attack(model, x, y), y) for x, y in data.batches(250)]
        for target, other in networks.items():
            found[source, target] = clean[target] & _right(other, batches)
    return found


def _right(model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> Tensor:
    with torch.no_grad(), eval_mode(model):
        return torch.cat([model(x).argmax(dim=1) == y for x, y in batches]).cpu()


def verdict(found: Outcomes, target: str) -> Check:
    """`white-box-beats-transfer` for one network: its own attack against the most successful of the others.

    As everywhere in the checklist, less than half a point behind is equal. So is what the best of as many sources may
    be ahead by chance: the images that only one of the two attacks breaks are put to a sign test, with Holm's
    correction for the number of sources.
    """
    others = {source: hits for (source, attacked), hits in found.items() if attacked == target != source}
    if not others:
        return check(NAME, True, {}, "there is no other arm to transfer from")
    source = min(others, key=lambda arm: int(others[arm].sum()))
    own = found[target, target]
    item = at_least_as_strong(NAME, ("white-box", own), (f"transfer from {source}", others[source]))
    # Holm's adjustment of the smallest of n p values is n times that p.
    p = min(1.0, len(others) * min(_sign_test(own, hits) for hits in others.values()))
    if not item["passed"] and p >= LEVEL:
        item |= {"passed": True, "reading": f"{item['reading']}: chance, for the best of {len(others)} (p = {p:.2g})"}
    return item | {"figures": {**item["figures"], "sources": len(others), "p": p}}


def _sign_test(own: Tensor, other: Tensor) -> float:
    """One-sided p that `other` breaks no more of the images on which the two attacks differ (McNemar, exact)."""
    lost, won = int((own & ~other).sum()), int((other & ~own).sum())
    return float(binomtest(lost, lost + won, alternative="greater").pvalue) if lost + won else 1.0


def report(found: Mapping[int, Outcomes]) -> dict[str, Any]:
    """What `results/transfer/<protocol>.json` says: robust accuracies of every pair, and a check for each run.

    `checks` goes by `<arm>-<seed>`, as the metrics files are named.
    """
    pairs = [
        {"source": source, "target": target, "seed": seed, "robust": percent(hits), "examples": len(hits)}
        for seed, each in found.items()
        for (source, target), hits in each.items()
    ]
    arms = {seed: dict.fromkeys(target for _, target in each) for seed, each in found.items()}
    checks = {f"{arm}-{seed}": verdict(found[seed], arm) for seed in found for arm in arms[seed]}
    return {"pairs": pairs, "checks": checks}
