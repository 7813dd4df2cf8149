"""codecheck.yml: every file that the study writes to results/, so that someone else can check them one by one.

`python -m seladv.manifest` writes it: what dvc.yaml and params.yaml name, as far as it has been made. Its format:
https://codecheck.org.uk/spec/config/2.0/.
"""

import re
from fnmatch import fnmatch
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from seladv import checkpoint, paths, plain

HEAD = """\
---
# Written by `python -m seladv.manifest`. `paper` is the article whose claims the files test; they are not its own.
# Nobody has checked the study yet: codechecker, summary, check_time, certificate and report are for who does.
"""
ABOUT: dict[str, Any] = {
    "version": "https://codecheck.org.uk/spec/config/2.0/",
    "paper": {
        "title": "Scaling Adversarial Training via Data Selection",
        "authors": [{"name": "Ye"}, {"name": "Wang"}, {"name": "Bhandare"}],
        "reference": "https://arxiv.org/abs/2512.22069",
    },
}
COMMENTS = {  # the first pattern that fits says what the file is
    "results/bench/*": "from `benchmarks`, not from a stage",
    "results/timing/*": "epochs timed one after the other",
    "results/fidelity/*": "exact gradient matching and its proxies on one run's networks",
    "results/transfer/*": "every arm's adversarial examples tried on every other arm's network",
    "results/metrics/*": "all that one run measured",
    "results/figures/*": "a figure of one protocol",
    "results/claims/*": "one protocol's verdicts and effects, for programs",
    "results/claims.*": "verdicts on the paper's claims, all protocols",
    "results/report.html": "every result on one page that opens from disk",
    "results/discrepancies.md": "described and coded, with the effect of each difference",
    "results/*": "one protocol's table",
}


def declared(stages: dict[str, Any], settings: dict[str, Any]) -> list[str]:
    """Every output below results/ of dvc.yaml's `stages`, filled in from params.yaml's `settings`."""
    found = []
    for stage in stages.values():
        known = {name: value for part in stage.get("vars", []) for name, value in part.items()}
        axes = {name: _fill(over, settings) for name, over in stage.get("matrix", {}).items()}
        for values in product(*axes.values()):
            items = {f"item.{name}": value for name, value in zip(axes, values, strict=True)}
            outs = [next(iter(out)) if isinstance(out, dict) else out for out in stage.get("outs", [])]
            found += [_fill(out, known | items) for out in outs if out.startswith("results/")]
    return found


def _fill(text: str, values: dict[str, Any]) -> Any:
    """`text` with its ${names}, of which a dot leads into a section; a name alone may stand for a list."""

    def look_up(name: str) -> Any:
        section, _, rest = name.partition(".")
        return values[name] if name in values else values[section][rest]

    alone = re.fullmatch(r"\$\{([^}]+)\}", text)
    return look_up(alone[1]) if alone else re.sub(r"\$\{([^}]+)\}", lambda match: str(look_up(match[1])), text)


def files(root: Path) -> list[str]:
    """The files below results/, sorted: of the outputs named, those that are there; and the benchmark's."""
    stages = yaml.safe_load((root / "dvc.yaml").read_text())["stages"]
    named = {*declared(stages, yaml.safe_load((root / "params.yaml").read_text())), "results/bench"}
    paths = {path for name in named for path in ((root / name).rglob("*") if (root / name).is_dir() else [root / name])}
    return sorted(path.relative_to(root).as_posix() for path in paths if path.is_file())


def page(root: Path) -> str:
    """codecheck.yml's content."""
    comments = ((name, next(text for form, text in COMMENTS.items() if fnmatch(name, form))) for name in files(root))
    content = {**ABOUT, "manifest": [{"file": name, "comment": comment} for name, comment in comments]}
    return HEAD + yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120)


def main() -> None:
    """Write codecheck.yml anew."""
    checkpoint.write_bytes(paths.root() / "codecheck.yml", page(paths.root()).encode())


if __name__ == "__main__":
    plain.command(main, usage="python -m seladv.manifest")
