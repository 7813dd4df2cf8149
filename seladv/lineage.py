"""Which files of this package a result depends on: so that a change makes stale what it can alter, and nothing else."""

import ast
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from seladv import arms, checkpoint, notebooks, params, plain, precision

PACKAGE = Path(__file__).parent
REGISTRY = "selection"  # knows every criterion; an arm depends on its own one
SETTINGS = {"arms", "params", "protocol"}  # what they read reaches a stage that judges as that stage's own parameters

READS = ("checkpoint", "models", "record")  # a network from its file
COMPARED = ("gradmatch", "gradmatch_last", "gradmatch_logit", "graddot", "el2n", "margin", "random")
STAGES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    # notebook → the modules that do its work, with all that they import; those taken without
    "1-data": (("data", "folders", "sources"), ("checkpoint",)),
    "2-train": (("train", "selector"), ("record",)),
    "3-evaluate": (("evaluate",), READS),
    "3-transfer": (("transfer",), READS),
    "4-fidelity": (("fidelity", "fidelity_report", *(f"criteria.{name}" for name in COMPARED)), ("selector",)),
    "4-results": (("budget", "discrepancies", "efficiency", "plots", "report", "results", "tracked", "verdicts"), ()),
    "5-claims": (("claims_report", "manifest", "page"), ()),
}
ASSETS = {"page": ("page/style.css", "page/sort.js")}  # what a module reads of the package besides code


def closure(*modules: str) -> set[str]:
    """`modules` (named from the package on) and all that they import of the package, save through the registry."""
    seen: set[str] = set()
    todo = set(modules)
    while todo:
        seen |= todo
        todo = {name for module in todo for name in _imports(_file(module))} - seen - {REGISTRY}
    return seen


def of_stage(notebook: str) -> list[Path]:
    """The files that the result of a notebook's stage depends on; every run's training, for `2-train`."""
    work, alone = STAGES[notebook]
    modules = closure(*work) | set(alone)
    files = {_file(module) for module in (modules if notebook == "2-train" else modules - SETTINGS)}
    return sorted(files | {PACKAGE / asset for module in modules & set(ASSETS) for asset in ASSETS[module]})


def of_arm(name: str) -> list[Path]:
    """The files that the arm `name` depends on besides: its criterion, and for a warm-up the random one."""
    arm = arms.parse(name)
    criteria = {arm.criterion} if arm.criterion else set()
    criteria |= {"random"} if "warmup" in arm.switches else set()
    return sorted(map(_file, closure(*(f"criteria.{criterion.replace('-', '_')}" for criterion in criteria))))


def write(study: Path, folder: Path, target: Path) -> None:
    """Write what each stage depends on, a digest and a name for every file: `target`/<notebook>.txt.

    Training has a file for every arm of params.yaml, `target`/2-train/<arm>.txt. Of the notebooks in `folder` the code
    counts alone (`seladv.notebooks.code`).

    Raises:
        ValueError: a notebook is none, or has not exactly one cell tagged `parameters`.
    """
    named = {arm for protocol in params.check(study).values() for arm in protocol.arms}
    for name in STAGES:
        lines = [_line(notebooks.code(folder / f"{name}.ipynb").encode(), f"notebooks/{name}.ipynb, its code")]
        lines += _digests(of_stage(name))
        if name != "2-train":
            checkpoint.write_bytes(target / f"{name}.txt", "".join(lines).encode())
            continue
        for arm in named:
            checkpoint.write_bytes(target / name / f"{arm}.txt", "".join([*lines, *_digests(of_arm(arm))]).encode())


def state_path(folder: Path, settings: dict[str, Any], *, arm: str, seed: int, data: Path) -> Path:
    """Where a run's state belongs in `folder`: named by all that determines the run, its data and code included.

    A changed setting, module, data file, torch, precision or thread count gives another name: no old run is resumed.
    """
    resolved = {"resolved": precision.resolve(settings["precision"], _device())}
    key = checkpoint.key({**settings, **_arithmetic(), **resolved}, data, *of_stage("2-train"), *of_arm(arm))
    return folder / f"{arm}-{seed}-{key}.safetensors"


def attacks_path(folder: Path, settings: dict[str, Any], *, arm: str, seed: int, data: Path, network: Path) -> Path:
    """Where the outcomes of a run's attacks belong while its evaluation lasts: named by all that determines them."""
    key = checkpoint.key({**settings, **_arithmetic(), "seed": seed}, data, network, *of_stage("3-evaluate"))
    return folder / f"{arm}-{seed}-{key}.json"


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _arithmetic() -> dict[str, Any]:
    """What rounding depends on besides the code."""
    gpu = _device().type == "cuda"
    device = torch.cuda.get_device_name() if gpu else torch.backends.cpu.get_cpu_capability()
    return {"torch": torch.__version__, "device": device, "threads": torch.get_num_threads()}


def _digests(paths: Iterable[Path]) -> list[str]:
    return [_line(path.read_bytes(), str(path.relative_to(PACKAGE.parent))) for path in paths]


def _line(content: bytes, name: str) -> str:
    return f"{hashlib.sha256(content).hexdigest()}  {name}\n"


def _file(module: str) -> Path:
    path = PACKAGE.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _imports(path: Path) -> set[str]:
    """The modules of the package that `path` imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{name}" for name in names]
        for name in names:
            parts = name.split(".")
            while len(parts) > 1 and parts[0] == PACKAGE.name:
                if _file(".".join(parts[1:])).exists():
                    found.add(".".join(parts[1:]))
                    break
                parts.pop()
    return found


if __name__ == "__main__":
    plain.command(
        lambda study, folder, target: write(Path(study), Path(folder), Path(target)),
        usage="python -m seladv.lineage PARAMS NOTEBOOKS TARGET",
    )
