"""`python -m seladv.study.check`: refuse a wrong params.yaml, write what each stage depends on, say what is missing.

The first stage of every pipeline. It imports no torch, so that a mistake is reported within two seconds.
"""

import hashlib
import json
import sys
from pathlib import Path
from statistics import mean

from seladv.study import arms, digests, params, places
from seladv.study.places import StudyError
from seladv.study.protocol import Protocol

GPU = "gpu/dvc.yaml"  # the pipeline of the protocols that need a GPU
RECORDED = ("results/metrics", "results/first/metrics")  # where runs say how long they took; the first one that knows


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
    """A line for every protocol with runs that have no result, with the hours that they take by what is recorded."""
    lines = []
    for name, protocol in protocols.items():
        runs = [(arm, seed) for arm in protocol.arms for seed in protocol.seeds]
        todo = [run for run in runs if not _metrics(root, RECORDED[0], name, *run).exists()]
        if not todo:
            continue
        hours = {arm: _hours(root, name, arm) for arm, _ in todo}
        known = [value for value in hours.values() if value is not None]
        line = f"{name}: {len(todo)} of {len(runs)} runs are missing"
        if known:
            guess = mean(known)
            total = sum(guess if (value := hours[arm]) is None else value for arm, _ in todo)
            line += f", about {total:.1f} hours, one after the other, at the speed of the runs on record"
        if name in gpu(root):
            line += f"; left out here for want of a GPU: `dvc repro {GPU}`"
        lines.append(line)
    return lines


def gpu(root: Path) -> list[str]:
    """The protocols whose stages are in the GPU's pipeline."""
    prefix = "  table-"
    lines = (root / GPU).read_text(encoding="utf-8").splitlines() if (root / GPU).exists() else []
    return [line.removeprefix(prefix).split(":")[0] for line in lines if line.startswith(prefix)]


def _hours(root: Path, protocol: str, arm: str) -> float | None:
    """Hours of training and evaluating the arm, mean over the runs on record; None if there is none."""
    for folder in RECORDED:
        taken = []
        for path in _metrics(root, folder, protocol, arm, 0).parent.glob(f"{arm}-[0-9]*.json"):
            try:
                run = json.loads(path.read_text(encoding="utf-8"))
                taken.append(run["training"]["cost"]["epoch_seconds"] + run["evaluation"]["seconds"])
            except (ValueError, KeyError, TypeError):
                continue
        if taken:
            return mean(taken) / 3600
    return None


def _metrics(root: Path, folder: str, protocol: str, arm: str, seed: int) -> Path:
    return root / folder / protocol / f"{arm}-{seed}.json"


def _gpu_results(root: Path, protocols: dict[str, Protocol]) -> list[str]:
    found = [path for name in gpu(root) if name in protocols for path in root.glob(f"results/*/{name}/*.json")]
    found += [path for name in gpu(root) for path in root.glob(f"results/*/{name}.json")]
    return [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(root)}\n" for path in sorted(found)]


if __name__ == "__main__":
    try:
        main()
    except StudyError as error:
        sys.exit(str(error))
