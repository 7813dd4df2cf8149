"""Every command that README.md and docs/*.md show is run, in their order, in a clone whose digits train in a second.

A command is a line of a shell block, or a `code span` that begins with one of `PROGRAMS`. Each must match a rule below;
the rule says what is run instead where the command itself is too long, needs a network, or never ends.
"""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from PIL import Image
from test_pipeline import SMALL, Study

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PROGRAMS = {
    "dvc",
    "make",
    "python",
    "git",
    "source",
    "cd",
    "pip",
    "jupyter",
    "papermill",
    "pytest",
    "pdoc",
    "ruff",
    "mypy",
}

RULES: list[tuple[str, str | None, str]] = [  # command, what is run instead, why
    (r"source \.venv/bin/activate", None, ""),
    (r"make demo", "make --old-file=.venv/.ready demo", "the environment is there already"),
    (r"make (test|bench|bench-peers|lock)", "make --dry-run {0}", "this very run; ten minutes; a network"),
    (r"make lab", "make --dry-run lab", "never ends; test_browser.py opens it"),
    (r"make docs", "make --dry-run docs", "half a minute; test_reference.py runs pdoc"),
    (r"make status", "make --old-file=.venv/.ready status", "the environment is there already"),
    (r"(?:SELADV_MIRROR=\S+ )?dvc repro (\S+-(?:mnist|cifar10)\S*)", "dvc dag {0}", "hours; a dry run needs the data"),
    (r"dvc repro (table-photos)", "dvc dag {0}", "a ResNet; test_folders.py trains one on a folder"),
    (r"dvc repro", "dvc dag", "every protocol: days"),
    (r"dvc repro (--\S+ )*\S+-(digits|photos)(@\S+)?", None, ""),
    (r"dvc repro --single-item claims", None, ""),
    (r"dvc (metrics|plots|exp|status|remote|push|pull|cache|config)( .+)?", None, ""),
    (r"(OMP_NUM_THREADS=1 )?dvc queue (start|logs) .+", None, ""),
    (r"dvc queue status", "while [[ $(dvc queue status) =~ Running|Queued ]]; do sleep 1; done; dvc queue status",
     "the reader waits"),
    (r"python -m seladv\.(manifest|status)", None, ""),
    (r"python -m seladv\.lanes (mnist)", "dvc dag table-{0}", "hours; test_pipeline.py runs it on the digits"),
    (r"python -m benchmarks\.crosscheck .+", "python -c 'import benchmarks.crosscheck'",
     "the other libraries are installed apart; test_crosscheck.py"),
    (r"python -m benchmarks\.autoattack .+", "python -c 'import benchmarks.autoattack'",
     "hours; test_bench_autoattack.py runs it on the digits"),
    (r"python -m benchmarks\.attack_steps .+", "python -c 'import benchmarks.attack_steps'", "test_bench.py runs it"),
    (r"git (add|commit|checkout|clone) .+", None, ""),
    (r"cd .+", None, ""),
]  # fmt: skip
EXPECTED = {  # what the output of a command's block must show
    "make demo": r"Verdicts on the paper's claims",
    "dvc metrics diff": r"margin-30\.robust",
    "dvc plots diff": r"dvc_plots/index\.html",
    "dvc metrics show": r"margin-30\.total_cost",
    "dvc repro evaluate-digits@margin-50-0": r"didn't change|up to date",
    "dvc repro --single-item --force evaluate-digits@margin-50-0": r"digits margin-50 seed 0: clean",
    "dvc metrics diff HEAD ten-percent": r"margin-10\.robust",
    "dvc queue status": r"(?s)Success.*Success",
    "dvc metrics diff five-percent twenty-percent": r"margin-20\.robust",
    "dvc push --with-deps table-digits": r"pushed",
    "dvc status table-digits": r"up to date",
    "dvc repro data-photos": r"test +\(50, 3, 64, 64\)",
}


class Step(NamedTuple):
    """Commands that share a shell, with the heading that they stand under."""

    page: str
    section: str
    commands: list[str]


def is_command(text: str) -> bool:
    words = [word for word in text.split() if not re.match(r"[A-Z_]+=", word)]
    return bool(words) and words[0] in PROGRAMS


def shell_lines(part: str) -> list[str]:
    """The commands of a fenced block, without their comments; none where it is no shell block."""
    language, _, body = part[3:-3].partition("\n")
    lines = [re.sub(r"\s+# .*", "", line).strip() for line in body.splitlines() if line.strip()]
    shell = language in ("sh", "bash") or (language == "" and lines and is_command(lines[0]))
    return lines if shell else []


def steps(page: Path) -> Iterator[Step]:
    """The shell blocks of `page` and, where they show something else, its code spans, in its order."""
    section = ""
    parts = re.split(r"^(#+ .+|```(?s:.*?)^```)$", page.read_text().replace("<protocol>", "digits"), flags=re.MULTILINE)
    seen = {line for part in parts if part.startswith("```") for line in shell_lines(part)}
    for part in parts:
        if part.startswith("#"):
            section = part.lstrip("# ")
        elif part.startswith("```"):
            if lines := shell_lines(part):
                yield Step(page.name, section, lines)
        else:
            for span in (" ".join(text.split()) for text in re.findall(r"`([^`]+)`", part)):
                if is_command(span) and span not in seen:
                    seen.add(span)
                    yield Step(page.name, section, [span])


STEPS = [step for page in PAGES for step in steps(page)]


def rule(command: str) -> str:
    """What is run for `command`.

    Raises:
        LookupError: no rule covers it.
    """
    for pattern, instead, _ in RULES:
        if match := re.fullmatch(pattern, command):
            return command if instead is None else instead.format(*match.groups())
    raise LookupError(f"no rule of test_docs.py covers `{command}`: add one")


class Reader:
    """Somebody who reads the pages, and does what they ask for between the commands."""

    def __init__(self, folder: Path) -> None:
        (folder / "study").mkdir()
        self.study = Study(folder / "study")
        small = {**SMALL["evaluate"], "steps": 2}
        small |= {name: 50 for name in ("examples", "strong", "fgsm", "noise", "square", "curves", "transfer")}
        self.study.params(
            evaluate=small, arms=[*SMALL["arms"], "gradmatch-50"]
        )  # the demo looks at this one's networks
        self.home = self.study.folder
        (self.home / ".venv").symlink_to(sys.prefix)
        with (self.home / ".git/info/exclude").open("a") as file:
            file.write(".venv\nphotos\n")
        self.places = {f"<{name}>": str(folder / name) for name in ("folder", "remote", "cache", "clone")}
        self.shell("git config user.name t; git config user.email t@t; git commit -qam small")

    def shell(self, script: str) -> str:
        """The output of a script that must succeed."""
        for place, value in self.places.items():
            script = script.replace(place, value)
        own = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "CI": "1", "OMP_NUM_THREADS": "1"}
        own |= {"PYTHONPATH": str(self.home), "GIT_AUTHOR_NAME": "t", "GIT_AUTHOR_EMAIL": "t@t"}
        env = {**os.environ, **own, "GIT_COMMITTER_NAME": "t", "GIT_COMMITTER_EMAIL": "t@t"}
        env.pop("PYTEST_CURRENT_TEST", None)
        command = ["bash", "-euo", "pipefail", "-c", script]
        done = subprocess.run(command, cwd=self.home, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{script}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done.stdout + done.stderr

    def adds_a_ratio(self) -> None:
        self.shell("git add -A; git commit -qm 'what README makes'")
        self.study.params(arms=[*SMALL["arms"], "margin-30"])

    def adds_a_protocol(self) -> None:
        """Both YAML blocks of the page as they stand, and images such as it asks for."""
        params, stages = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/own-images.md").read_text(), flags=re.DOTALL)
        for name, text in (("params.yaml", params), ("dvc.yaml", stages)):
            with (self.home / name).open("a") as file:
                file.write(f"\n{text}")
        for part, count in (("train", 30), ("test", 25)):
            for kind, colour in (("cat", (200, 90, 20)), ("dog", (20, 90, 200))):
                (self.home / "photos" / part / kind).mkdir(parents=True)
                for number in range(count):
                    Image.new("RGB", (70, 66 + number), colour).save(
                        self.home / "photos" / part / kind / f"{number}.png"
                    )


EDITS: dict[tuple[str, str], Callable[[Reader], None]] = {  # what the reader does before a section's first command
    ("daily-work.md", "A new ratio"): Reader.adds_a_ratio,
    ("own-images.md", "The study on your own images"): Reader.adds_a_protocol,
}


def test_every_command_has_a_rule_and_every_edit_and_expectation_a_place() -> None:
    commands = {command for step in STEPS for command in step.commands}
    assert [rule(command) for command in commands]
    assert commands >= {*EXPECTED}
    assert {(step.page, step.section) for step in STEPS} >= {*EDITS}


def test_a_command_without_a_rule_is_refused() -> None:
    with pytest.raises(LookupError, match="`dvc gc --workspace`"):
        rule("dvc gc --workspace")
    with pytest.raises(LookupError, match="`make coffee`"):
        rule("make coffee")


def test_commands_are_found_in_blocks_and_in_spans(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A\n`dvc one`\n\n```\nmake two  # why\nA=1 dvc three\n```\n## B\n`make\nfour`, `seladv`\n```python\nx\n```\n"
    )
    assert [(step.section, step.commands) for step in steps(page)] == [
        ("A", ["dvc one"]), ("A", ["make two", "A=1 dvc three"]), ("B", ["make four"])
    ]  # fmt: skip


def test_the_pages_link_to_files_that_are_there() -> None:
    for page in PAGES:
        prose = re.sub(r"```(?s:.*?)```", "", page.read_text())
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", prose):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_pages_commands_do_what_they_say(tmp_path: Path) -> None:
    reader, edited = Reader(tmp_path), set[tuple[str, str]]()
    for step in STEPS:
        here = (step.page, step.section)
        if here in EDITS and here not in edited:
            edited.add(here)
            EDITS[here](reader)
        output = reader.shell("\n".join(rule(command) for command in step.commands))
        for command in step.commands:
            assert re.search(EXPECTED.get(command, ""), output), f"{command}\n{output[-3000:]}"
    photos = yaml.safe_load((reader.home / "params.yaml").read_text())["photos"]
    assert photos["data"]["folder"] == "photos"
