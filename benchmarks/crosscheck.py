"""The same examples under other libraries' PGD: `python -m benchmarks.crosscheck digits full 0` on a trained network.

Every library draws its random start uniformly from torch's generator, so one seed for each batch gives all of them the
same start; what remains of a difference is rounding, or a mistake in one of them.
"""

import sys
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import peers
from seladv.attack import eval_mode, pgd
from seladv.data.images import Images, load
from seladv.evaluation.outcomes import subset
from seladv.study import params, places
from seladv.training.checkpoint import load_network
from seladv.training.device import device
from seladv.training.monitor import correct, percent

Outcomes = dict[str, Tensor]  # library → which images are right under its PGD [N], bool

BATCH = 250


def outcomes(
    model: nn.Module, images: Images, *, eps: float, step_size: float, steps: int, libraries: tuple[str, ...]
) -> Outcomes:
    """`seladv` and each of `libraries` that is installed, on the images that are right unattacked."""
    found = peers.load(libraries)
    clean = correct(model, images)
    settings: dict[str, Any] = {"eps": eps, "step_size": step_size}
    hits: dict[str, list[Tensor]] = {name: [] for name in ("seladv", *found)}
    with eval_mode(model):
        for number, (x, y) in enumerate(images.batches(BATCH)):
            calls = peers.attacks(found, model, x, y, **settings, steps=steps)
            own = torch.Generator(x.device).manual_seed(number)
            crafted = {"seladv": pgd(model, x, y, **settings, steps=steps, generator=own)}
            for name, call in calls.items():
                with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
                    torch.manual_seed(number)
                    crafted[name] = call()
            with torch.no_grad():
                for name, x_adv in crafted.items():
                    hits[name].append(model(x_adv).argmax(dim=1) == y)
    return {name: clean & torch.cat(parts).cpu() for name, parts in hits.items()}


def main(protocol: str, arm: str, seed: int) -> None:
    """Print robust accuracy by library, and on how many images each differs from seladv."""
    root = places.root()
    study = params.load(root / "params.yaml", protocol, arm=arm, seed=seed)
    model = load_network(places.network(root, protocol, arm=arm, seed=seed), study.model, device=device())
    test = load(root / "data" / f"{protocol}.safetensors", device=device())["test"]
    few = Images(*(part[subset(test.labels, study.evaluate.subset)] for part in test))
    settings = study.evaluate.model_dump(include={"step_size", "steps"})
    found = outcomes(model, few, eps=study.eps, **settings, libraries=peers.ATTACKS)
    for name, hits in found.items():
        others = int((hits != found["seladv"]).sum())
        print(f"{protocol} {arm} {seed} {name:13} {percent(hits):6.2f} % of {len(hits)}, {others} differ")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
