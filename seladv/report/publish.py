"""`python -m seladv.report.publish SOURCE EXECUTED TARGET`: a notebook with its outputs, for git.

The source notebook as it stands, with the outputs of its execution and nothing else of it: no times, no paths, no cell
of papermill's. Two executions that compute the same give the same bytes.
"""

import json
import sys
from pathlib import Path

from seladv.study.places import StudyError, write_bytes


def publish(source: Path, executed: Path, target: Path) -> None:
    """Write `source` with the outputs of `executed`, cell by cell, to `target`.

    Raises:
        StudyError: a cell of `source` is not in `executed`, or failed there.
    """
    notebook = json.loads(source.read_text(encoding="utf-8"))
    made = {cell["id"]: cell for cell in json.loads(executed.read_text(encoding="utf-8"))["cells"]}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            outputs = made.get(cell["id"], {}).get("outputs")
            if outputs is None or any(output["output_type"] == "error" for output in outputs):
                raise StudyError(f"{executed} is no finished execution of {source}: execute it again")
            cell["outputs"] = [
                {**output, "execution_count": None} if "execution_count" in output else output for output in outputs
            ]
    write_bytes(target, (json.dumps(notebook, indent=1, ensure_ascii=False) + "\n").encode())


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: python -m seladv.report.publish SOURCE EXECUTED TARGET")
    try:
        publish(*map(Path, sys.argv[1:]))
    except StudyError as error:
        sys.exit(str(error))
