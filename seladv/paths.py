"""Where things are: the study's root, the same from a stage (which runs there) and from JupyterLab (in notebooks/)."""

from pathlib import Path

from seladv import plain


def root() -> Path:
    """The nearest folder, from the working directory upwards, that holds params.yaml and dvc.yaml.

    Every notebook begins with this, so from here on it shows the package's refusals as lines: see `seladv.plain`.

    Raises:
        FileNotFoundError: the working directory is not inside a checkout of the study.
    """
    plain.install()
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "params.yaml").exists() and (folder / "dvc.yaml").exists():
            return folder
    raise FileNotFoundError(
        f"{here} is not inside the study: no folder above it holds params.yaml and dvc.yaml; go there and run again"
    )


def network(root: Path, protocol: str, *, arm: str, seed: int, which: str = "last") -> Path:
    """Where training left a run's network (`last`, `best`, `middle` or `average`), beside its run.json.

    Raises:
        FileNotFoundError: the run has not been trained, or keeps no such network; one line.
    """
    path = root / "models" / protocol / f"{arm}-{seed}" / f"{which}.safetensors"
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: run `dvc repro train-{protocol}@{arm}-{seed}` first")
    return path
