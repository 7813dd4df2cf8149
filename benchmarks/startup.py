"""What a stage costs before its work begins, beside what training the digits costs."""

import ast
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

import nbformat
import yaml

from seladv import notebooks

ROOT = Path(__file__).parents[1]
TRAIN = ROOT / "notebooks" / "2-train.ipynb"
ARM = "margin-50"
STAGE = [sys.executable, "-m", "seladv.stage"]
KERNEL = [sys.executable, "-m", "papermill", "-k", "python3", "--no-progress-bar", "--log-output"]


def imports(notebook: Path) -> str:
    """The import statements of a notebook's code: all that is left of it without its work."""
    nodes = ast.walk(ast.parse(notebooks.code(notebook)))
    lines = [ast.unparse(node) for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]
    return "\n".join([*lines, "from seladv import plots"])  # which its figures need


def measure(*, repetitions: int, epochs: int | None) -> dict[str, list[float]]:
    """Seconds of a stage that only imports what training does, by the way it is run; and of `training` one arm.

    Args:
        repetitions: rounds; the ways take turns.
        epochs: of a training run; None as in params.yaml.
    """
    with tempfile.TemporaryDirectory(prefix="seladv-") as made:
        folder = Path(made)
        study(folder, epochs)
        empty = folder / "empty.ipynb"
        cells = [nbformat.v4.new_code_cell(imports(TRAIN))]
        kernel = {"kernelspec": nbformat.read(TRAIN, as_version=4).metadata.kernelspec}
        nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), empty)
        run(folder, STAGE, ROOT / "notebooks" / "1-data.ipynb", "protocol=digits")  # starts the server, too
        times: dict[str, list[float]] = {"papermill": [], "cold": [], "warm": [], "training": []}
        for _ in range(repetitions):
            times["papermill"].append(run(folder, KERNEL, empty))
            times["cold"].append(run(folder, STAGE, empty, warm="0"))
            times["warm"].append(run(folder, STAGE, empty))
            run(folder, STAGE, TRAIN, "protocol=digits", f"arm={ARM}", "seed=0", "output=models")
            history = json.loads((folder / "models" / "digits" / f"{ARM}-0" / "run.json").read_text())["history"]
            times["training"].append(sum(line["epoch_seconds"] for line in history))
        return times


def study(folder: Path, epochs: int | None) -> None:
    """Make `folder` a root of the study, with the digits' training cut to `epochs`."""
    shutil.copy(ROOT / "dvc.yaml", folder)
    params: dict[str, Any] = yaml.safe_load((ROOT / "params.yaml").read_text())
    if epochs is not None:
        params["digits"]["epochs"] = epochs
    (folder / "params.yaml").write_text(yaml.safe_dump(params))


def run(folder: Path, command: list[str], notebook: Path, *settings: str, warm: str = "120") -> float:
    """Seconds of one notebook, its process' start and end included."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    env = {**os.environ, "PYTHONPATH": path, "SELADV_WARM": warm, "XDG_RUNTIME_DIR": str(folder)}
    start = perf_counter()
    output = str(folder / "runs" / notebook.name)
    (folder / "runs").mkdir(exist_ok=True)
    subprocess.run([*command, str(notebook), output, *settings], cwd=folder, env=env, capture_output=True, check=True)
    return perf_counter() - start
