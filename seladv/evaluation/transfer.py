"""Examples made on one arm's network, tried on another's: they should not do more than its own attacks do.

Where they do, the gradients of the attacked network mislead: its attacks are beaten by one that never saw it.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from seladv.attack import eval_mode, pgd
from seladv.data.images import Images, stream
from seladv.evaluation.attacks import entry, full_fp32
from seladv.evaluation.outcomes import subset
from seladv.study.protocol import Protocol
from seladv.training.monitor import Attack, correct


@full_fp32()
def outcomes(networks: Mapping[str, nn.Module], test: Images, protocol: Protocol, *, seed: int) -> list[dict[str, Any]]:
    """Every network under the protocol's PGD on every network; where source and target are one, that is white-box.

    Args:
        networks: arm → its network, all of one seed, on the device of `test`.
        test: the test set; the protocol's subset of it is attacked, from the same random start by all.
        protocol, seed: whose attack, and what its random start depends on.

    Returns:
        An entry (`attacks.entry`) for every pair, with `source`, `target` and `seed`.

    Raises:
        StudyError: the subset is larger than the test set.
    """
    chosen = subset(test.labels, protocol.evaluate.subset)
    data = Images(*(part[chosen] for part in test))
    clean = {arm: correct(model, data) for arm, model in networks.items()}
    settings = {name: getattr(protocol.evaluate, name) for name in ("step_size", "steps")}
    found = []
    for source, model in networks.items():
        attack: Attack = partial(
            pgd, eps=protocol.eps, **settings, generator=stream(seed, "transfer", data.labels.device)
        )
        batches = [(attack(model, x, y), y) for x, y in data.batches(250)]
        for target, other in networks.items():
            hits = clean[target] & _right(other, batches)
            found.append({"source": source, "target": target, "seed": seed, **entry(hits)})
    return found


def _right(model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> Tensor:
    with torch.no_grad(), eval_mode(model):
        return torch.cat([model(x).argmax(dim=1) == y for x, y in batches]).cpu()
