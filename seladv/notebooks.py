"""A notebook's code without its looks, so that saving it in JupyterLab changes nothing that a stage depends on."""

from pathlib import Path

import nbformat

LOOKS = "figure"  # the tag of cells that only show: they may change without a run becoming stale


def code(notebook: Path) -> str:
    """The source of the cells that compute: no outputs, no metadata, no markdown, no cell tagged `figure`.

    Raises:
        ValueError: the file is no notebook, or has not exactly one cell tagged `parameters`.
    """
    try:
        cells = nbformat.read(notebook, as_version=4).cells
    except (OSError, nbformat.reader.NotJSONError, nbformat.ValidationError, AttributeError) as error:
        raise ValueError(f"{notebook} is not a notebook: {error}") from None
    tagged = [cell for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    if len(tagged) != 1:
        raise ValueError(f"{notebook} has {len(tagged)} cells tagged `parameters`; papermill needs exactly one")
    kept = [c for c in cells if c.cell_type == "code" and LOOKS not in c.metadata.get("tags", [])]
    return "\n\n".join(cell.source.strip() for cell in kept if cell.source.strip()) + "\n"
