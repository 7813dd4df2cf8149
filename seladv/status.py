"""`python -m seladv.status`: which results belong to the code and the parameters as they are here, and which are stale.

What is compared: every stage's line in dvc.lock with the files that git keeps, and with the stages before it, so that
no data and no network need to be there (as `dvc repro --dry --allow-missing` does). Notebooks count by their code.
"""

import hashlib
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from seladv import lineage, params, paths

Stage = Any  # dvc's; it has no types
UNKNOWN = "dvc.lock knows no run of"
FIRST = 3  # of what changed, named; the others are counted
NOT_OURS = "results/bench/"  # `make bench` writes there


def build(root: Path) -> dict[str, str]:
    """What the stage `check` would write now, whose outputs git does not keep: path → md5."""
    with tempfile.TemporaryDirectory() as folder:
        lineage.write(root / "params.yaml", root / "notebooks", Path(folder))
        return {f"build/code/{path.relative_to(folder).as_posix()}": _md5(path) for path in Path(folder).rglob("*.txt")}


def _md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


class Plan:
    """The stages of dvc.yaml with what dvc.lock knows of their last runs."""

    def __init__(self, root: Path, stages: list[Stage], built: Mapping[str, str]):
        self.root, self.built = root, built
        self.stages = {stage.name: stage for stage in stages}
        self.outs = {self.path(out): (stage, out) for stage in stages for out in stage.outs}
        self._known: dict[str, list[str]] = {}

    def path(self, file: Any) -> str:
        """A dependency's or an output's path from the root."""
        return Path(file.fs_path).relative_to(self.root).as_posix()

    def results(self, stage: Stage) -> list[Any]:
        """The stage's outputs that git keeps."""
        return [out for out in stage.outs if self.path(out).startswith("results/")]

    def changed(self, stage: Stage) -> list[str]:
        """What differs from the stage's last run, in it or before it; [] where its results belong to what is here."""
        if stage.name not in self._known:
            unknown = not any(dep.hash_info for dep in stage.deps)
            self._known[stage.name] = (
                [f"{UNKNOWN} {stage.name}"] if unknown else list(dict.fromkeys(self._changes(stage)))
            )
        return self._known[stage.name]

    def _changes(self, stage: Stage) -> Iterator[str]:
        if stage.cmd_changed:
            yield f"the command of {stage.name}"
        for dep in stage.deps:
            path = self.path(dep)
            if isinstance(dep.hash_info.value, dict):  # settings, not a file
                yield from (f"{path}: {name}" for names in dep.status().values() for name in names)
            elif path.startswith("build/"):
                if self.built.get(path) != dep.hash_info.value:
                    yield _source(path)
            else:
                yield from self._through(path, dep)
        yield from (f"{self.path(out)} itself" for out in self.results(stage) if out.status())

    def _through(self, path: str, dep: Any) -> Iterator[str]:
        """What changed in the file or folder `path`, or before it in the stages that write it."""
        makers = {stage.name: stage for name, (stage, _) in self.outs.items() if _within(name, path)}
        before = [change for stage in makers.values() for change in self.changed(stage) if self.there(stage)]
        if path.startswith("results/"):
            yield from [path] if before or dep.status() else []
        elif path in self.outs:
            made = self.outs[path][1].hash_info
            yield from before or ([path] if made != dep.hash_info else [])
        elif before:
            yield from before
        elif all(out.exists for stage in makers.values() for out in stage.outs) and dep.status():
            yield path  # a folder of networks tells nothing before all of them are there

    def there(self, stage: Stage) -> bool:
        """Whether the stage has left any of its results, or none of its outputs is one."""
        results = self.results(stage)
        return not results or any(out.exists for out in results)

    def says(self, stage: Stage) -> str:
        """The stage's results in words."""
        if not self.there(stage):
            return "not run"
        changed = self.changed(stage)
        if not changed:
            return "belongs to this code"
        if unknown := [change for change in changed if change.startswith(UNKNOWN)]:
            return f"stale: {unknown[0]}"
        more = f" and {len(changed) - FIRST} more" if len(changed) > FIRST else ""
        return f"stale: {', '.join(changed[:FIRST])}{more} changed since"

    def leftovers(self) -> list[str]:
        """Files below results/ that no stage of the plan writes."""
        files = [path.relative_to(self.root).as_posix() for path in sorted((self.root / "results").rglob("*"))]
        files = [name for name in files if (self.root / name).is_file() and not name.startswith(NOT_OURS)]
        return [name for name in files if not any(_within(name, out) for out in self.outs)]


def _within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder}/")


def _source(path: str) -> str:
    """What a file of build/code lists."""
    stage, *arm = Path(path).with_suffix("").parts[2:]
    return f"the code of {' for '.join([stage, *arm])}"


def name(stage: str, protocols: list[str]) -> str:
    """`mnist full-0` for evaluate-mnist@full-0, `mnist table` for table-mnist, and `claims` as it is."""
    kind, _, run = stage.partition("@")
    for protocol in protocols:
        if kind.endswith(f"-{protocol}"):
            kind = kind.removesuffix(f"-{protocol}")
            return " ".join(filter(None, [protocol, "" if run and kind == "evaluate" else kind, run]))
    return stage


def lines(root: Path) -> list[str]:
    """A line for every result of the plan, protocol by protocol, and for every file that is none."""
    from dvc.repo import Repo  # here: the package is imported where dvc is not

    protocols = list(params.check(root / "params.yaml"))
    with Repo(str(root)) as repo:
        plan = Plan(root, repo.index.stages, build(root))
        said = {name(key, protocols): plan.says(stage) for key, stage in plan.stages.items() if plan.results(stage)}
    order = sorted(said, key=lambda key: [*protocols, key].index(key.split(" ")[0]))
    stray = [f"{file}: a leftover, no stage of the plan writes it" for file in plan.leftovers()]
    return [*(f"{key}: {said[key]}" for key in order), *stray]


if __name__ == "__main__":
    try:
        print("\n".join(lines(paths.root())))
    except Exception as error:
        sys.exit(" ".join(str(error).split()) or type(error).__name__)
