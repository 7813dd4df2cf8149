"""The page of all results: sound HTML that loads nothing, says what the files say, and says what is missing."""

import json
import re
import shutil
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pandas as pd
import pytest

from seladv import page
from seladv.claims import NOT_RUN, NOT_SUPPORTED, SUPPORTED, UNDECIDED, VERDICTS
from seladv.page import data as page_data
from seladv.page import figures as page_figures
from seladv.page import html as page_html
from seladv.page import verdicts as page_verdicts
from seladv.page.data import Study
from seladv.params import Protocol
from seladv.results import ResultsError

VOID = {"img", "meta"}
LOADS = ("src", "srcset", "data", "poster", "action", "background")


class Reader(HTMLParser):
    """Elements in order, as (name, attributes); rows of cells by table; complains where a tag does not fit."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.tables: dict[str, list[list[tuple[str, str | None]]]] = {}
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        assert len(found) == len(attrs), f"<{tag}> has an attribute twice"
        self.elements.append((tag, found))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "div" and found.get("class") == "box":
            self.rows = self.tables.setdefault(str(found["aria-label"]), [])
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append(("", found.get("data-value")))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        if {"td", "th"} & {*self.open}:
            shown, value = self.rows[-1][-1]
            self.rows[-1][-1] = (shown + data, value)

    def attributes(self, name: str) -> list[str]:
        return [str(found[name]) for _, found in self.elements if name in found]


@pytest.fixture(scope="module")
def studies(root: Path) -> list[Study]:
    return page_data.load(root)


@pytest.fixture(scope="module")
def text(studies: list[Study]) -> str:
    return page.render(studies)


@pytest.fixture(scope="module")
def read(text: str) -> Reader:
    return Reader(text)


def test_the_committed_page_is_what_the_committed_results_give(root: Path, text: str) -> None:
    assert (root / "results/report.html").read_text() == text, "run `dvc repro --single-item claims`"


def test_the_page_loads_nothing(read: Reader, text: str) -> None:
    loaded = [value for name in LOADS for value in read.attributes(name)]
    assert loaded
    assert not [value for value in loaded if not value.startswith("data:")]
    assert {tag for tag, found in read.elements if "href" in found} == {"a"}
    assert not re.search(r"url\(|@import|fetch\(|import\(|XMLHttpRequest", text)


def test_ids_are_unique_and_every_link_inside_leads_somewhere(read: Reader) -> None:
    ids = read.attributes("id")
    assert len(ids) == len(set(ids))
    inside = [href[1:] for href in read.attributes("href") if href.startswith("#")]
    assert {*inside, *read.attributes("aria-labelledby")} <= {*ids}


def test_headings_go_down_one_level_at_a_time(read: Reader) -> None:
    levels = [int(tag[1]) for tag, _ in read.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in pairwise(levels))


def test_every_figure_is_embedded_and_said_in_words(read: Reader, studies: list[Study]) -> None:
    alts = [str(found["alt"]) for tag, found in read.elements if tag == "img"]
    assert len(alts) == sum(len(study.figures) + len(study.fidelity_figures) for study in studies)
    assert len(alts) == len(set(alts))
    for study in studies:
        if study.figures:
            full = sum(run["robust"] for run in study.metrics["full"]) / len(study.metrics["full"])
            (accuracy,) = (alt for alt in alts if alt.startswith(f"Accuracy of each arm, {study.name}: "))
            assert (
                f"full {sum(r['clean'] for r in study.metrics['full']) / len(study.metrics['full']):.1f} %" in accuracy
            )
            assert f"{full:.1f} % robust" in accuracy


def test_every_claim_is_there_with_the_numbers_of_the_csv(root: Path, read: Reader) -> None:
    rows = pd.read_csv(root / "results/claims.csv", dtype=str, keep_default_na=False)
    for protocol, found in rows.groupby("protocol"):
        header, *shown = read.tables[f"{protocol}: every verdict"]
        place = {name: index for index, (name, _) in enumerate(header)}
        assert len(shown) == len(found)
        for row, cells in zip(found.to_dict("records"), shown, strict=True):
            said = {name: cells[index] for name, index in place.items()}
            assert said["claim"][1] == row["claim"]
            assert said["arm"][0] == row["arm"]
            assert said["paper"][0] == (row["paper"] or "–")
            assert said["effect"][1] == row["ours"]
            assert said["interval"][1] == row["low"]
            assert said["margin"][0] == row["margin"]
            assert said["verdict"][0].endswith(f" {row['verdict']}")
            ends = [float(end) for end in said["interval"][0].split(" to ")] if row["low"] else []
            assert ends == pytest.approx([float(row[end]) for end in ("low", "high") if row[end]], abs=0.006)


def test_every_arm_is_there_with_the_numbers_of_the_protocols_csv(
    root: Path, read: Reader, studies: list[Study]
) -> None:
    tables = [path for study in studies if (path := root / "results" / f"{study.name}.csv").exists()]
    assert tables
    for path in tables:
        shown = read.tables[f"{path.stem}: means over the seeds"][1:]
        rows = pd.read_csv(path, dtype=str, keep_default_na=False).to_dict("records")
        names = ["clean", "robust", "robust_minus_full", "attack_cost", "total_cost", "epoch_time"]
        written = {row["arm"]: [row[name] for name in names] for row in rows}
        found = {cells[0][0]: [value for _, value in cells[2:8]] for cells in shown}
        assert "full" in written
        assert found == written


@pytest.fixture
def plan(studies: list[Study]) -> Protocol:
    arms = ["clean", "full", "random-50", "margin-50", "gradmatch-50"]
    return studies[0].protocol.model_copy(update={"arms": arms, "seeds": [0, 1, 2]})


@pytest.fixture
def part(root: Path, tmp_path: Path) -> Path:
    """The digits with one seed of an arm gone, without table, verdicts and figures; one check has failed."""
    shutil.copytree(root / "results/metrics/digits", tmp_path / "metrics/digits")
    (tmp_path / "metrics/digits/margin-50-1.json").unlink()
    for seed in (0, 1, 2):
        (tmp_path / f"metrics/digits/gradmatch-50-{seed}.json").unlink()
    path = tmp_path / "metrics/digits/full-0.json"
    run = json.loads(path.read_text())
    run["checklist"][0] |= {"passed": False, "reading": "pgd is weaker <by 9>"}
    path.write_text(json.dumps(run | {"masked_gradients": True}))
    return tmp_path


def test_what_has_not_been_run_is_said_with_what_runs_it(part: Path, plan: Protocol) -> None:
    study = page_data.study(part, "digits", plan)
    assert study.missing == {"margin-50": [1], "gradmatch-50": [0, 1, 2]}
    read = Reader(page.render([study]))
    arms = {row[0][0]: row[-1][0] for row in read.tables["digits: means over the seeds"][1:]}
    assert list(arms) == study.protocol.arms
    assert arms["margin-50"] == "– not run: seed 1"
    assert arms["gradmatch-50"] == "– not run: seed 0, 1, 2"
    assert arms["full"] == "masked gradients?: seed 0"
    runs = {(row[0][0], row[1][0]): row[-1][0] for row in read.tables["digits: percent right, by attack"][1:]}
    assert len(runs) == 15
    assert "dvc repro evaluate-digits@gradmatch-50-2" in runs["gradmatch-50", "2"]
    words = "".join(read.words)
    assert ": 4 of 15 runs are missing. dvc repro table-digits makes them." in words
    assert "full, seed 0, iterative-beats-single-step: pgd is weaker <by 9> (pgd " in words  # with its figures
    marks = {(row[0][0], row[1][0]): row[2][0] for row in read.tables["digits: the evaluation's checklist"][1:]}
    assert (marks["full", "0"], marks["full", "1"]) == ("✗ fail", "✓ pass")


def test_nothing_at_all_is_a_page_too(tmp_path: Path, plan: Protocol) -> None:
    read = Reader(page.render([page_data.study(tmp_path, name, plan) for name in ("digits", "mnist")]))
    assert "[Re?]" in "".join(read.words)
    assert "none of its 15 runs has been made" in "".join(read.words)


def test_a_broken_file_is_named(part: Path, plan: Protocol) -> None:
    (part / "claims").mkdir()
    (part / "claims/digits.json").write_text("{")
    with pytest.raises(ResultsError, match=r"claims/digits\.json is not whole: run `dvc repro table-digits`"):
        page_data.study(part, "digits", plan)


@pytest.mark.parametrize(
    ("counts", "tag"),
    [
        ({SUPPORTED: 4}, "[Re]"),
        ({SUPPORTED: 4, NOT_SUPPORTED: 1}, "[¬Re]"),
        ({NOT_SUPPORTED: 1, UNDECIDED: 9}, "[¬Re]"),
        ({SUPPORTED: 4, UNDECIDED: 1}, "[Re?]"),
        ({SUPPORTED: 4, NOT_RUN: 1}, "[Re?]"),
        ({}, "[Re?]"),
    ],
)
def test_the_title_follows_from_the_verdicts(counts: dict[str, int], tag: str) -> None:
    assert page_verdicts.title(dict.fromkeys(VERDICTS, 0) | counts) == f"{tag} {page_verdicts.ARTICLE}"


def test_the_headline_is_of_the_papers_own_arms_and_protocols(studies: list[Study]) -> None:
    row: dict[str, Any] = {"claim": "C1", "arm": "margin-50", "verdict": SUPPORTED}
    rows = [row, row | {"arm": "random-50"}, row | {"claim": "C7"}]
    counted = [study._replace(claims=rows) for study in studies if study.name in ("digits", "mnist")]
    assert page_verdicts.headline(counted) == {SUPPORTED: 1}


def test_text_is_escaped_and_html_is_not() -> None:
    bold = page_html.element("b", "a < b & c", title='"')
    assert bold == '<b title="&quot;">a &lt; b &amp; c</b>'
    assert page_html.element("p", bold, aria_label=None) == f"<p>{bold}</p>"


def test_a_figure_that_nobody_described_still_has_words(tmp_path: Path, studies: list[Study]) -> None:
    for name in ("own-idea.png", "own-idea.svg", "other.png", "notes.txt"):
        (tmp_path / name).write_text('<svg fill="#ff0000">\n<path d="M 1.23456 7.8"/></svg>')
    assert [path.name for path in page_data.figures(tmp_path)] == ["other.png", "own-idea.svg"]
    drawn = page_figures.figure(studies[0], tmp_path / "own-idea.svg")
    assert 'alt="Own idea, digits: see the tables."' in drawn
    (source,) = re.findall('src="data:image/svg[+]xml,([^"]+)"', drawn)
    assert unquote(source) == '<svg fill="#ff0000"> <path d="M 1.23 7.8"/></svg>'
    assert "#" not in source  # what follows it would not belong to the picture


def test_many_arms_are_not_all_read_out() -> None:
    said = page_figures.listed({f"arm-{n}": "1 %" for n in range(12)})
    assert said.count("%") == page_figures.MOST
    assert said.endswith("and 4 more arms, in the tables.")
