"""Where a run computes, in which number format, and what is recorded about that."""

import platform
import subprocess
from collections.abc import Mapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("torch", "torchvision", "numpy", "safetensors")
SOURCES = ("seladv", "notebooks", "params.yaml", "dvc.yaml", "gpu")  # what a result is made by


def device() -> torch.device:
    """The GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def resolve(precision: str, device: torch.device) -> str:
    """Turn `auto` into `bf16` where `device` computes it natively and into `fp32` elsewhere.

    Emulated bf16 is slower than fp32, so the hardware is asked: CUDA itself, or the CPU's AVX-512 bf16 and AMX flags.
    """
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    flags = torch.cpu.get_capabilities()
    return "bf16" if flags.get("avx512_bf16") or flags.get("amx_bf16") else "fp32"


def autocast(precision: str, device: torch.device) -> AbstractContextManager[None]:
    """A context in which the network computes in `precision` while weights and images stay fp32.

    Enter it once around a whole attack: the weights are then cast once and not at every step. Leave it before
    the weights change.
    """
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


def arithmetic(precision: str) -> dict[str, Any]:
    """What rounding depends on besides the code: a saved state is resumed only where all of it is the same."""
    gpu = device().type == "cuda"
    name = torch.cuda.get_device_name() if gpu else torch.backends.cpu.get_cpu_capability()
    precision = resolve(precision, device())
    return {"torch": torch.__version__, "device": name, "threads": torch.get_num_threads(), "precision": precision}


def describe(root: Path) -> dict[str, Any]:
    """Code revision, package versions, device and thread count, as JSON can hold them."""
    return {
        "revision": _revision(root),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else _processor(),
        "threads": torch.get_num_threads(),
    }


def _revision(root: Path) -> str:
    """The commit, with `-dirty` where the code or params.yaml differ from it; `unknown` outside git.

    What a stage itself writes, results and dvc.lock, does not count.
    """
    found = []
    for command in (["describe", "--always", "--abbrev=12"], ["status", "--porcelain", "--", *SOURCES]):
        try:
            done = subprocess.run(["git", *command], cwd=root, capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return "unknown"
        found.append(done.stdout.strip())
    return found[0] + ("-dirty" if found[1] else "")


def uncommitted(target: Path, *made: Mapping[str, Any]) -> str:
    """One line where a part of `target`, all by `describe`, was made from uncommitted code; else empty."""
    dirty = next((each["revision"] for each in made if each["revision"].endswith("-dirty")), None)
    return f"{target.name}: made by {dirty}, uncommitted code or parameters; commit, and run it again" if dirty else ""


def _processor() -> str:
    """The CPU's own name where the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
