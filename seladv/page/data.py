"""What the results page is made from: all that params.yaml asks for and that is there, and what is missing."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from seladv import checklist, params, results
from seladv.params import Protocol
from seladv.results import Metrics

Row = dict[str, Any]
ENDINGS = (".svg", ".png")  # of a figure, the better one first


class Study(NamedTuple):
    """One protocol's results, as far as they go."""

    name: str
    protocol: Protocol
    metrics: Metrics  # the runs that are there; an arm without any is left out
    missing: dict[str, list[int]]  # arm → seeds that are not there
    claims: list[Row]  # as `verdicts.judge` made them
    effects: list[Row]  # as `discrepancies.effects` made them
    timing: dict[str, Any] | None
    figures: list[Path]
    fidelity: Row  # as `fidelity.measure` made it; empty where no run was looked at
    fidelity_figures: list[Path]

    @property
    def whole(self) -> Metrics:
        """The arms whose every seed is there."""
        return {arm: runs for arm, runs in self.metrics.items() if arm not in self.missing}

    @property
    def runs(self) -> list[Row]:
        """All runs, arm by arm."""
        return [run for runs in self.metrics.values() for run in runs]


def load(root: Path) -> list[Study]:
    """Every protocol of `root`/params.yaml, with the results below `root`/results.

    Raises:
        ParamsError: params.yaml is wrong.
        ResultsError: a file is there and is not whole; one line names it.
    """
    return [study(root / "results", name, protocol) for name, protocol in params.check(root / "params.yaml").items()]


def study(folder: Path, name: str, protocol: Protocol) -> Study:
    """The protocol `name`, from the results in `folder`."""
    metrics: Metrics = {}
    missing: dict[str, list[int]] = {}
    checks = _json(folder / "transfer" / f"{name}.json").get("checks", {})
    for arm in protocol.arms:
        for seed in protocol.seeds:
            if not (folder / "metrics" / name / f"{arm}-{seed}.json").exists():
                missing.setdefault(arm, []).append(seed)
                continue
            alone = protocol.model_copy(update={"arms": [arm], "seeds": [seed]})
            (run,) = results.load(folder / "metrics" / name, alone)[arm]
            check = checks.get(f"{arm}-{seed}")
            metrics.setdefault(arm, []).append(checklist.added(run, check) if check and "checklist" in run else run)
    judged = _json(folder / "claims" / f"{name}.json")
    timing = results.timing(folder / "timing" / f"{name}.json")
    of_proxies = [path for path in figures(folder / "fidelity") if path.stem == name]
    return Study(
        name, protocol, metrics, missing, judged.get("claims", []), judged.get("discrepancies", []), timing,
        figures(folder / "figures" / name), _json(folder / "fidelity" / f"{name}.json"), of_proxies,
    )  # fmt: skip


def figures(folder: Path) -> list[Path]:
    """Every figure in `folder` once, be it drawn as SVG or PNG or both."""
    found = [path for path in sorted(folder.glob("*")) if path.suffix in ENDINGS]
    names = dict.fromkeys(path.stem for path in found)
    return [min((p for p in found if p.stem == name), key=lambda p: ENDINGS.index(p.suffix)) for name in names]


def _json(path: Path) -> dict[str, Any]:
    """The mapping in `path`, empty where there is no file.

    Raises:
        ResultsError: the file is not whole.
    """
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise results.ResultsError(f"{path} is not whole: run `dvc repro table-{path.stem}`")
    return content
