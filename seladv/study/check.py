"""`python -m seladv.study.check`: refuse a wrong params.yaml, write what each stage depends on, say what is missing.

The first stage of every pipeline. It imports no torch, so that a mistake is reported within two seconds.
"""

import hashlib
import json
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from statistics import mean
from typing import Any

from seladv.study import arms, digests, params, places
from seladv.study.places import StudyError
from seladv.study.protocol import Protocol

GPU = "gpu/dvc.yaml"  # the pipeline of the protocols that need a GPU
RECORDED = ("results", "results/first")  # where runs say how long they took; the first one that knows
KINDS: dict[str, Callable[[Any], float]] = {  # the files of a run, each with the seconds that it took
    "metrics": lambda run: run["training"]["cost"]["epoch_seconds"] + run["evaluation"]["seconds"],
    "autoattack": lambda run: sum(member["seconds"] for member in run["members"].values()),
}


def main() -> None:
    """Check params.yaml, write build/code, and print what has not been run yet."""
    root = places.root()
    protocols = params.check(root / "params.yaml")
    weights(root, protocols)
    write(root, protocols, root / "build" / "code")
    for line in missing(root, protocols):
        print(line)


def write(root: Path, protocols: dict[str, Protocol], target: Path) -> None:
    """Write the digests that each stage depends on: `target`/<notebook>.txt; of training, one file for every arm.

    The claims also depend on the results of the protocols that need a GPU, which their own pipeline makes.
    """
    found = {name: digests.of_notebook(root / "notebooks" / f"{name}.ipynb") for name in digests.NOTEBOOKS}
    training = found.pop("2-train")
    for arm in {arm for protocol in protocols.values() for arm in protocol.arms}:
        found[f"2-train/{arm}"] = training + digests.of_arm(arm)
    criteria = digests.of_modules({f"selection.{file}" for file, *_ in arms.CRITERIA.values()})
    found["4-fidelity"] += criteria  # these two run every criterion
    found["timing"] = digests.of_modules({"report.timing"}) + criteria
    found["5-claims"] += _gpu_results(root, protocols)
    for name, lines in found.items():
        places.write_bytes(target / f"{name}.txt", "".join(dict.fromkeys(lines)).encode())


def weights(root: Path, protocols: dict[str, Protocol]) -> None:
    """Refuse weights to start from that are not there, or whose change would train nothing again.

    Raises:
        StudyError: the file is missing, or no stage depends on it; one line.
    """
    pipelines = "".join(path.read_text(encoding="utf-8") for path in (root / "dvc.yaml", root / GPU) if path.exists())
    for name, protocol in protocols.items():
        if protocol.weights and not (root / protocol.weights).is_file():
            raise StudyError(f"{name}.weights = {protocol.weights!r}: there is no such file below {root}")
        if protocol.weights and f"${{{name}.weights}}" not in pipelines:
            raise StudyError(f"{name}.weights: add ${{{name}.weights}} to the deps of train-{name} in dvc.yaml")


def missing(root: Path, protocols: dict[str, Protocol]) -> list[str]:
    """A line for every protocol with runs that lack a result, with the hours that these take by what is recorded."""
    lines = []
    for name, protocol in protocols.items():
        runs = [(arm, seed) for arm in protocol.arms for seed in protocol.seeds]
        todo = {kind: [run for run in runs if not _file(root / "results", kind, name, *run).exists()] for kind in KINDS}
        if not (lacking := len({run for of_kind in todo.values() for run in of_kind})):
            continue
        line = f"{name}: {lacking} of {len(runs)} runs are missing"
        if hours := sum(_hours(root, kind, name, [arm for arm, _ in of_kind]) for kind, of_kind in todo.items()):
            line += f", about {places.duration(hours)}, one after the other, at the speed of the runs on record"
        if name in gpu(root):
            line += f"; left out here for want of a GPU: `dvc repro {GPU}`"
        lines.append(line)
    return lines


def gpu(root: Path) -> list[str]:
    """The protocols whose stages are in the GPU's pipeline."""
    prefix = "  table-"
    lines = (root / GPU).read_text(encoding="utf-8").splitlines() if (root / GPU).exists() else []
    return [line.removeprefix(prefix).split(":")[0] for line in lines if line.startswith(prefix)]


def _hours(root: Path, kind: str, protocol: str, arms: list[str]) -> float:
    """Hours of a run of each of `arms`: the mean of its runs on record, else that of the other arms; 0 if none."""
    known = {arm: hours for arm in set(arms) if (hours := _recorded(root, kind, protocol, arm))}
    return sum(known.get(arm, mean(known.values())) for arm in arms) if known else 0


def _recorded(root: Path, kind: str, protocol: str, arm: str) -> float | None:
    for folder in RECORDED:
        taken = []
        for path in _file(root / folder, kind, protocol, arm, 0).parent.glob(f"{arm}-[0-9]*.json"):
            with suppress(ValueError, KeyError, TypeError):
                taken.append(KINDS[kind](json.loads(path.read_text(encoding="utf-8"))))
        if taken:
            return mean(taken) / 3600
    return None


def _file(results: Path, kind: str, protocol: str, arm: str, seed: int) -> Path:
    return results / kind / protocol / f"{arm}-{seed}.json"


def _gpu_results(root: Path, protocols: dict[str, Protocol]) -> list[str]:
    found = [path for name in gpu(root) if name in protocols for path in root.glob(f"results/*/{name}/*.json")]
    found += [path for name in gpu(root) for path in root.glob(f"results/*/{name}.json")]
    return [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(root)}\n" for path in sorted(found)]


if __name__ == "__main__":
    try:
        main()
    except StudyError as error:
        sys.exit(str(error))
