"""Where things are: the study's root, the same from a stage (which runs there) and from JupyterLab (in notebooks/)."""

from pathlib import Path


def root() -> Path:
    """The nearest folder, from the working directory upwards, that holds params.yaml and dvc.yaml.

    Raises:
        FileNotFoundError: the working directory is not inside a checkout of the study.
    """
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "params.yaml").exists() and (folder / "dvc.yaml").exists():
            return folder
    raise FileNotFoundError(f"{here} is not inside the study: no folder above it holds params.yaml and dvc.yaml")


def network(root: Path, protocol: str, *, arm: str, seed: int, which: str = "last") -> Path:
    """Where training leaves a run's networks (`last`, `best`, `middle`, `average`), beside its run.json."""
    return root / "models" / protocol / f"{arm}-{seed}" / f"{which}.safetensors"
