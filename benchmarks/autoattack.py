"""`python -m benchmarks.autoattack <protocol> <examples> <folder>`: AutoAttack on the seeds that the evaluation spared.

`autoattack_seeds` in params.yaml spares most seeds, and to change it is to evaluate every network again. This adds
what is missing and touches no result of the study; what an evaluation has done already is taken from its metrics.
Killed, it goes on after the last network that it finished; remove its file to begin anew.
"""

import json
import sys
from pathlib import Path
from statistics import mean
from typing import Any

from seladv.data.images import Images, load
from seladv.evaluation.autoattack import autoattack
from seladv.evaluation.outcomes import pack, unpack
from seladv.study import params, places
from seladv.study.protocol import Protocol
from seladv.training.checkpoint import load_network
from seladv.training.device import describe, device
from seladv.training.monitor import percent


def left(study: Protocol, protocol: str, *, arm: str, seed: int, first: Images, root: Path) -> dict[str, Any]:
    """What AutoAttack leaves of the `first` test images [N], for the network that the protocol's table shows.

    Raises:
        FileNotFoundError, StudyError: the run's metrics, or its network, are not there: `dvc repro` it first.
    """
    metrics = json.loads((root / "results" / "metrics" / protocol / f"{arm}-{seed}.json").read_text())
    known, examples = metrics["attacks"].get("autoattack"), len(first.labels)
    if evaluated := known is not None and known["examples"] >= examples:
        hits = unpack(known["outcomes"], known["examples"])[:examples]
    else:
        network = places.network(root, protocol, arm=arm, seed=seed, which=study.headline)
        model = load_network(network, study.model, device=first.labels.device)
        hits = autoattack(model, first, eps=study.eps, seed=seed).hits
    source = "evaluation" if evaluated else "here"
    return {"arm": arm, "seed": seed, "robust": percent(hits), "outcomes": pack(hits), "measured": source}


def main(protocol: str, examples: int, folder: Path) -> None:
    """Write every run, and means over the seeds, to <folder>/autoattack-<protocol>.json, anew after each network."""
    root, made = places.root(), folder / f"autoattack-{protocol}.json"
    study = params.load(root / "params.yaml", protocol)
    before: dict[str, Any] = json.loads(made.read_text()) if made.exists() else {"examples": examples, "runs": []}
    if before["examples"] != examples:
        raise SystemExit(f"{made} is of {before['examples']} images: remove it, or ask for as many")
    test = load(root / "data" / f"{protocol}.safetensors", device=device())["test"]
    first = Images(*(part[:examples] for part in test))
    runs = {(run["arm"], run["seed"]): run for run in before["runs"]}
    for arm, seed in ((arm, seed) for arm in study.arms for seed in study.seeds):
        if (arm, seed) not in runs:
            run = runs[arm, seed] = left(study, protocol, arm=arm, seed=seed, first=first, root=root)
            print(f"{protocol} {arm} {seed}: {run['robust']:.2f} % of {examples} are left", flush=True)
        of_arm = {arm: [run["robust"] for run in runs.values() if run["arm"] == arm] for arm in study.arms}
        means = {arm: round(mean(found), 2) for arm, found in of_arm.items() if found}
        said = {"protocol": protocol, "examples": examples, "mean over seeds": means, "runs": [*runs.values()]}
        places.write_json(made, said | {"provenance": describe(root)})


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
