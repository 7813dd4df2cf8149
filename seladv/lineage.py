"""Which files of this package a result depends on: so that a change makes stale what it can alter, and nothing else."""

import ast
import hashlib
import sys
from pathlib import Path
from typing import Any

import torch

from seladv import arms, checkpoint, params, precision

PACKAGE = Path(__file__).parent
REGISTRY = "selection"  # knows every criterion; an arm depends on its own one


def closure(module: str) -> set[str]:
    """`module` (named from the package on) and all that it imports of the package, save through the registry."""
    seen: set[str] = set()
    todo = {module}
    while todo:
        seen |= todo
        todo = {name for module in todo for name in _imports(_file(module))} - seen - {REGISTRY}
    return seen


def of_training() -> list[Path]:
    """The files that every run's training depends on."""
    return sorted(_file(module) for module in closure("train") | {"selector"})


def of_arm(name: str) -> list[Path]:
    """The files that the arm `name` depends on besides: its criterion, and for a warm-up the random one."""
    arm = arms.parse(name)
    criteria = {arm.criterion} if arm.criterion else set()
    criteria |= {"random"} if "warmup" in arm.switches else set()
    modules = {module for criterion in criteria for module in closure(f"criteria.{criterion.replace('-', '_')}")}
    return sorted(_file(module) for module in modules)


def write(study: Path, folder: Path) -> None:
    """Write `folder`/<arm>.txt for every arm of params.yaml: a digest and a name for every file of `of_arm`."""
    folder.mkdir(parents=True, exist_ok=True)
    for arm in {arm for protocol in params.check(study).values() for arm in protocol.arms}:
        lines = (f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.relative_to(PACKAGE.parent)}" for p in of_arm(arm))
        (folder / f"{arm}.txt").write_text("".join(f"{line}\n" for line in lines))


def state_path(folder: Path, settings: dict[str, Any], *, arm: str, seed: int, data: Path) -> Path:
    """Where a run's state belongs in `folder`: named by all that determines the run, its data and code included.

    A changed setting, module, data file, torch, precision or thread count gives another name: no old run is resumed.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    arithmetic = {
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "resolved": precision.resolve(settings["precision"], device),
    }
    key = checkpoint.key({**settings, **arithmetic}, data, *of_training(), *of_arm(arm))
    return folder / f"{arm}-{seed}-{key}.safetensors"


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
    write(Path(sys.argv[1]), Path(sys.argv[2]))
