"""Every claim's verdict, on made-up runs with a known effect; the pre-registration; the title; verdicts as files."""

import io
import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seladv.evaluation.outcomes import pack
from seladv.report import claims, verdicts
from seladv.report.claims import (
    CLAIMS,
    FACT,
    MEASURES,
    NOT_MEASURED,
    NOT_RUN,
    NOT_SUPPORTED,
    PAPER_ARMS,
    PLANS,
    REPORTED,
    SUPPORTED,
    UNDECIDED,
    VERDICTS,
    Region,
    rounds,
)
from seladv.report.stats import mean_and_half_width
from seladv.report.table import to_csv
from seladv.study import params

ROOT = Path(__file__).parent.parent
PLANNED = params.check(ROOT / "params.yaml")
SPREAD = {  # what the seeds do to each arm beside the seeds' own effect: any two differ by 0.3 in standard deviation
    "full": (0.2, -0.3, 0.1, 0.2, -0.2),
    "full-k20": (-0.1, 0.2, 0.2, -0.3, 0.0),
    "random-50": (0.1, 0.1, -0.2, -0.2, 0.2),
    "margin-50": (-0.2, 0.1, 0.0, 0.3, -0.2),
    "gradmatch-50": (0.2, -0.3, 0.0, -0.1, 0.2),
}
ARMS = tuple(SPREAD)

Metrics = dict[str, list[dict[str, Any]]]
Row = dict[str, Any]


def run(arm: str, seed: int, **changes: Any) -> dict[str, Any]:
    """A run's metrics, as far as claims read them: a study of 5 epochs, in which half of the samples costs half."""
    made = {"clean": 97.0, "robust": 80.0, "auto": 75.0, "attack": 1000, "total": 1200, "scoring": 0.0} | changes
    history = []
    for epoch, (seconds, more) in enumerate(((1.0, 1.0), (9.0, 3.0), (1.0, 1.0), (1.0, 1.0), (1.0, 1.0)), 1):
        passes = {phase: {"forward": 0} for phase in ("scoring", "update")} | {"attack": {"forward": made["total"]}}
        line = {"seconds": {"scoring": made["scoring"] * seconds * more}, "epoch_seconds": seconds, "passes": passes}
        history.append(line | {"heldout_robust": 10.0 * epoch})
    cost = {"attack_passes": made["attack"], "total_passes": 5 * made["total"]}
    found = {"clean": made["clean"], "robust": made["robust"], "autoattack": {"robust": made["auto"]}}
    return {"arm": arm, "seed": seed, **found, "training": {"cost": cost, "history": history}}


def study(seeds: int = 5, arms: tuple[str, ...] = ARMS, **effects: dict[str, float]) -> Metrics:
    """`arms` over `seeds`; an effect (its arm spelt with _) is a shift of accuracies, or the value of anything else."""
    metrics: Metrics = {}
    for arm in arms:
        effect = effects.get(arm.replace("-", "_"), {})
        metrics[arm] = []
        for seed in range(seeds):
            common = {"clean": 97.0 + seed, "robust": 80.0 - 3 * seed, "auto": 75.0 - 3 * seed}  # seeds differ by more
            wobble = SPREAD.get(arm, SPREAD["gradmatch-50"])[seed]
            shifted = {key: value + wobble + effect.get(key, 0.0) for key, value in common.items()}
            others = {key: value for key, value in effect.items() if key not in common}
            metrics[arm].append(run(arm, seed, **others | shifted))
    return metrics


def decide(metrics: Metrics, timing: dict[str, Any] | None = None, name: str = "mnist") -> dict[tuple[str, str], Row]:
    rows = verdicts.decide(name, metrics, PLANNED[name], timing)
    json.dumps(rows, allow_nan=False)
    return {(row["claim"], row["arm"]): row for row in rows}


# ---- verdicts


@pytest.mark.parametrize(
    ("claim", "key", "shifts"),
    [
        ("C1", "auto", (0.0, -2.0, -1.0)),
        ("C1", "auto", (5.0, -9.0, -0.8)),
        ("C7", "auto", (1.0, -1.0, 0.2)),
        ("E1", "auto", (0.0, -2.0, -1.0)),
        ("C2", "clean", (0.0, -2.0, -1.0)),
        ("C2", "clean", (0.2, 2.0, 1.0)),
        ("C5", "auto", (0.0, 3.0, 1.0)),
        ("C5", "auto", (0.2, -3.0, -1.0)),
    ],
)
def test_accuracy(claim: str, key: str, shifts: tuple[float, ...]) -> None:
    for verdict, shift in zip((SUPPORTED, NOT_SUPPORTED, UNDECIDED), shifts, strict=True):
        row = decide(study(margin_50={key: shift}))[claim, "margin-50"]
        assert row["verdict"] == verdict
        assert row["ours"] == pytest.approx(shift, abs=0.021)
        assert row["df"] == 16  # five arms, five seeds
        assert row["high"] - row["low"] == pytest.approx(0.63, abs=0.01)  # blocks remove the seeds' own spread


def test_primary_endpoint_decides() -> None:
    """PGD is far ahead and AutoAttack far behind: the claim is not supported, and PGD's row has no verdict."""
    rows = decide(study(margin_50={"auto": -9.0, "robust": 9.0}))
    for claim in ("C1", "C7"):
        assert rows[claim, "margin-50"]["verdict"] == NOT_SUPPORTED
        pgd = rows[f"{claim}-pgd", "margin-50"]
        assert (pgd["verdict"], pgd["ours"]) == (REPORTED, pytest.approx(9.0, abs=0.021))
        assert pgd["low"] > 8


def test_facts_and_times_have_no_verdict() -> None:
    times = {arm: [10.0, 20.0, 10.2] for arm in ARMS} | {"margin-50": [5.0, 12.0, 6.12]}
    metrics = study(margin_50={"attack": 500, "total": 636}, gradmatch_50={"total": 660, "scoring": 0.2})
    rows = decide(metrics, {"epoch_seconds": times})
    expected = {
        ("C3", "margin-50"): (FACT, 0.5, 0.5, 0.5),
        ("C3-total", "margin-50"): (FACT, 0.53, 0.53, 0.53),
        ("C5-cost", "margin-50"): (FACT, 636 / 660, 636 / 660, 636 / 660),
        ("C4", "margin-50"): (REPORTED, 0.6, 0.5, 0.6),  # median and range
        ("C5-time", "margin-50"): (REPORTED, 0.6, 0.5, 0.6),
        ("C6", "gradmatch-50"): (REPORTED, 0.2, 0.2, 0.2),  # median epoch
    }
    for key, (verdict, *numbers) in expected.items():
        row = rows[key]
        assert row["verdict"] == verdict
        assert [row["ours"], row["low"], row["high"]] == pytest.approx(numbers)
        assert row["p"] is None
    decided = {claim for (claim, _), row in rows.items() if row["verdict"] in VERDICTS}
    assert decided == {"C1", "C2", "C5", "C7", "E1"}


def test_not_timed_and_not_attacked() -> None:
    metrics = study()
    metrics["margin-50"][2]["autoattack"] = None  # of one seed only: pairs of the others are no comparison of the arm
    rows = decide(metrics)
    for claim in ("C1", "C7", "C4"):
        assert (rows[claim, "margin-50"]["verdict"], rows[claim, "margin-50"]["ours"]) == (NOT_MEASURED, None)
    assert rows["C1", "gradmatch-50"]["df"] == 12  # the additive model does without the arm
    assert rounds({"epoch_seconds": {"full": [1.0]}}, "margin-50", "full") == []
    with pytest.raises(ValueError, match="argument 2 is longer"):
        rounds({"epoch_seconds": {"full": [1.0, 1.0], "margin-50": [1.0]}}, "margin-50", "full")


def test_equal_budget() -> None:
    """At 0.53 of full's passes full stands between its second epoch (20 %) and its third."""
    row = decide(study(margin_50={"total": 636}))["E2", "margin-50"]
    assert row["verdict"] == REPORTED
    assert row["ours"] == pytest.approx(50 - 10 * 5 * 636 / 1200)
    assert (
        decide(study(margin_50={"total": 100}))["E2", "margin-50"]["verdict"] == NOT_MEASURED
    )  # not one epoch of full


def test_equal_cost_of_every_half() -> None:
    rows = decide(study(arms=(*ARMS, "margin-25", "easy-50", "full-k5")))
    against = {arm: row["against"] for (claim, arm), row in rows.items() if claim == "E1"}
    assert against == dict.fromkeys(("margin-50", "gradmatch-50", "random-50", "easy-50"), "full-k20")


def test_figures_of_the_paper() -> None:
    rows = decide(study(full={"robust": 10.0}))
    assert rows["C1", "margin-50"]["paper"] == rows["C1-pgd", "margin-50"]["paper"] == "+0.6"
    assert rows["C2", "gradmatch-50"]["paper"] == "-0.3"
    assert rows["C3", "margin-50"]["paper"] == "~45 %"
    assert (
        rows["C1", "random-50"]["paper"] == rows["C3", "random-50"]["paper"] == rows["C7", "margin-50"]["paper"] == ""
    )
    level = rows["R0", "full"]
    assert (level["paper"], level["verdict"], level["margin"]) == ("84.5", REPORTED, "–")
    assert (level["ours"], level["high"] - level["ours"]) == pytest.approx(mean_and_half_width(level["values"]))
    assert level["ours"] == pytest.approx(84.0)
    assert rows["R0-clean", "margin-50"]["paper"] == "95.8"
    assert not [key for key in decide(study(), name="cifar10-small") if key[0].startswith("R0")]  # the paper has none


# ---- the additive model, pairs, one seed, Holm


def test_later_arms_are_tested_in_pairs() -> None:
    """An arm that the pre-registration does not name changes no other arm's interval."""
    before = decide(study())
    after = decide(study(arms=(*ARMS, "margin-25", "el2n-50")))
    assert all(after[key] == row for key, row in before.items())
    assert after["C1", "margin-25"]["df"] == after["C7", "el2n-50"]["df"] == 4
    assert after["C7", "el2n-50"]["against"] == "random-50"
    unplanned = verdicts.decide("photos", study(), PLANNED["mnist"])
    assert {row["df"] for row in unplanned if row["p"]} == {4}


def test_clean_is_never_in_the_model() -> None:
    assert decide(study(arms=(*ARMS, "clean"), clean={"auto": -70.0, "robust": -70.0})) == decide(study())
    assert not [name for name, plan in PLANS.items() if "clean" in plan.arms]


def test_one_seed() -> None:
    rows = decide(study(1, margin_50={"auto": 7.0, "clean": 7.0}))
    for claim in ("C1", "C2", "C5", "C7", "E1"):
        row = rows[claim, "margin-50"]
        assert (row["verdict"], row["low"], row["high"], row["p"]) == (UNDECIDED, None, None, None)
        assert verdicts.called(row) == "undecided (interim: 1 of 5 seeds)"


def test_interim() -> None:
    row = decide(study(3))["C1", "margin-50"]
    assert verdicts.called(row) == f"{row['verdict']} (interim: 3 of 5 seeds)"
    assert verdicts.called(decide(study(5))["C1", "margin-50"]) == SUPPORTED
    assert verdicts.called(decide(study(3))["C3", "margin-50"]) == FACT


def test_not_run() -> None:
    rows = decide(study(arms=("full", "margin-50")))
    assert rows["C1", "gradmatch-50"]["verdict"] == NOT_RUN
    assert {rows[claim, "margin-50"]["verdict"] for claim in ("C5", "C7", "E1")} == {NOT_RUN}
    assert rows["C1", "margin-50"]["verdict"] in VERDICTS
    assert {row["verdict"] for row in decide(study(arms=("clean",))).values()} == {NOT_RUN}


def test_comparisons() -> None:
    plan = ("full", "random-25", "random-50", "margin-25", "el2n-50", "easy-75", "full-k20", "margin-50-stale")
    rows = decide(study(arms=(*plan, "margin-50-whole", "as-coded-margin", "gradmatch-last-50", "fgsm")))
    for claim in ("C7", "C7-pgd"):
        against = {arm: row["against"] for (of, arm), row in rows.items() if of == claim and row["against"]}
        expected = {"el2n-50": "random-50", "margin-50-stale": "random-50", "gradmatch-last-50": "random-50"}
        assert against == expected | {"margin-25": "random-25"}
    with_full = {arm for (claim, arm), row in rows.items() if claim == "C1" and row["against"] == "full"}
    assert with_full == {"random-25", "random-50", "margin-25", "margin-50-stale", "as-coded-margin"}
    assert ("C6", "gradmatch-last-50") in rows


def test_holm_withdraws_support() -> None:
    alone = decide(study(margin_50={"auto": 0.36}))["C7", "margin-50"]
    assert 0.025 < alone["p"] < 0.05
    assert alone["low"] > 0
    assert alone["p_holm"] == pytest.approx(2 * alone["p"])  # of the paper's two criteria; the other has a larger p
    assert alone["verdict"] == UNDECIDED
    metrics = study(margin_50={"auto": 0.36})
    del metrics["gradmatch-50"]
    only = decide(metrics)["C7", "margin-50"]
    assert (only["p_holm"], only["verdict"] == SUPPORTED) == (only["p"], only["p"] < 0.05)


@pytest.mark.parametrize("shift", [0.36, 3.0])
def test_holm_never_overturns_not_supported(shift: float) -> None:
    row = decide(study(margin_50={"auto": -shift}))["C7", "margin-50"]
    assert row["high"] < 0
    assert (row["p_holm"] >= 0.05) == (shift == 0.36)
    assert row["verdict"] == NOT_SUPPORTED


def test_family_is_the_papers_criteria() -> None:
    rows = decide(study(arms=(*ARMS, "easy-50", "el2n-50"), easy_50={"auto": -9.0}))
    corrected = {key for key, row in rows.items() if row["p_holm"] is not None}
    assert corrected == {(claim, arm) for claim in ("C1", "C7") for arm in PAPER_ARMS}
    assert rows["C7", "easy-50"]["verdict"] == NOT_SUPPORTED


def test_seeds_and_images_crossed() -> None:
    metrics = study(arms=("full", "margin-50"))
    hits = {"full": torch.arange(200) < 120, "margin-50": torch.arange(200) < 130}
    for arm, records in metrics.items():
        for record in records:
            shifted = hits[arm].roll(record["seed"])
            record["autoattack"] |= {"examples": 200, "outcomes": pack(shifted)}
            record["attacks"] = {"pgd": {"examples": 200, "outcomes": pack(shifted)}}
    rows = decide(metrics)
    for claim in ("C1", "C1-pgd"):
        low, high = rows[claim, "margin-50"]["crossed"]
        assert 1.5 < low < 5.0 < high < 9.0  # ten of 200 images: five points
    assert rows["C2", "margin-50"]["crossed"] is None  # no outcomes
    del metrics["full"][0]["autoattack"]["outcomes"]
    assert decide(metrics)["C1", "margin-50"]["crossed"] is None


ERRORS = st.lists(st.floats(-4, 4).map(lambda value: round(value, 2)), min_size=5, max_size=5)


@settings(max_examples=5)
@given(ERRORS, st.floats(0, 3).map(lambda value: round(value, 2)))
def test_better_arm(differences: list[float], shift: float) -> None:
    order = [NOT_SUPPORTED, UNDECIDED, SUPPORTED]
    grades: dict[str, list[int]] = {"C1": [], "C7": [], "E1": []}
    for more in (0.0, shift):
        metrics = study(arms=("full", "full-k20", "random-50", "margin-50"))
        for ours, full, difference in zip(metrics["margin-50"], metrics["full"], differences, strict=True):
            ours["autoattack"]["robust"] = full["autoattack"]["robust"] + difference + more
        rows = decide(metrics)
        for claim, grade in grades.items():
            grade.append(order.index(rows[claim, "margin-50"]["verdict"]))
    assert all(before <= after for before, after in grades.values())


@given(st.floats(-3, 3), st.floats(0.01, 2), st.floats(0, 2))
def test_narrower_interval(centre: float, half: float, less: float) -> None:
    for claim in CLAIMS:
        wide = claim.region.verdict(centre - half, centre + half)
        narrow = claim.region.verdict(centre - half / (1 + less), centre + half / (1 + less))
        assert narrow == wide or wide == UNDECIDED


def test_wide_interval() -> None:
    assert Region(-1, 1).verdict(-5, 5) == UNDECIDED


# ---- the pre-registration


def rows_of(heading: str) -> list[list[str]]:
    """The cells of the table in a section of docs/preregistration.md, without its head."""
    section = (ROOT / "docs/preregistration.md").read_text().split(f"## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


ENDPOINTS = {
    "AutoAttack": claims.PRIMARY, "PGD": "pgd", "clean": "clean", "attack passes": "attack_passes",
    "all passes": "total_passes", "time": "epoch", "scoring's share": "scoring", "held-out PGD": "budget",
    "PGD, absolute": "level_pgd", "clean, absolute": "level_clean",
}  # fmt: skip


def test_preregistered_claims() -> None:
    """The file's table of claims: endpoint, margin, whether it decides, and which are corrected."""
    written = {id: cells for id, _, *cells in rows_of("Claims")}
    assert list(written) == [claim.id for claim in CLAIMS]
    for claim in CLAIMS:
        endpoint, margin, standing, family = written[claim.id]
        assert (ENDPOINTS[endpoint], margin) == (claim.measure, str(claim.region))
        assert standing == (MEASURES[claim.measure].standing or "decided")
        assert (family == "margin, gradmatch") == claim.corrected


def test_preregistered_arms_and_seeds() -> None:
    table = rows_of("Arms and seeds")
    written = {name.strip("`"): (re.findall("`(.+?)`", arms), int(seeds)) for name, arms, seeds in table}
    assert written == {name: (list(plan.arms), plan.seeds) for name, plan in PLANS.items()}
    assert all(set(plan.arms) <= set(PLANNED[name].arms) for name, plan in PLANS.items())


# ---- title and files


def test_title() -> None:
    """MNIST and CIFAR-10 apart; by the primary endpoint; PGD and times change nothing."""
    mnist = verdicts.decide("mnist", study(margin_50={"auto": 3.0, "robust": -20.0}), PLANNED["mnist"])
    behind = study(3, ("full", "random-50", "margin-50"), margin_50={"auto": -9.0})
    cifar = verdicts.decide("cifar10-small", behind, PLANNED["cifar10-small"])
    assert verdicts.title(mnist + cifar, PLANNED).split("\n\n") == [
        "**MNIST**, mnist-cnn, 5 epochs (`mnist`): robust accuracy under AutoAttack on par with full training: "
        "margin-50 *supported*, gradmatch-50 *supported*; above random selection of as many: margin-50 *supported*, "
        "gradmatch-50 *undecided*.",
        "**CIFAR-10**, resnet18-narrow, 5 epochs (`cifar10-small`): robust accuracy under AutoAttack on par with full "
        "training: margin-50 *not supported (interim: 3 of 5 seeds)*; above random selection of as many: margin-50 "
        "*not supported (interim: 3 of 5 seeds)*.",
    ]
    slow = {"epoch_seconds": {arm: [1.0, 1.0] for arm in ARMS}}
    timed = verdicts.decide("mnist", study(margin_50={"auto": 3.0}), PLANNED["mnist"], slow)
    assert verdicts.title(timed, PLANNED) == verdicts.title(mnist, PLANNED)
    assert verdicts.title(verdicts.decide("mnist", study(arms=("clean",)), PLANNED["mnist"]), PLANNED).startswith("No ")


ROW: dict[str, Any] = {
    "claim": "C1", "protocol": "digits", "arm": "margin-50", "against": "full", "paper": "+0.6", "unit": "points",
    "values": [1.0, 2.0], "seeds": [3, 5], "planned": 3, "ours": 1.5, "low": -4.85312, "high": 7.85312,
    "margin": "> -1", "p": 0.0004, "p_holm": None, "df": 4, "crossed": (0.5, 2.5), "verdict": "undecided", "epochs": 20,
}  # fmt: skip
EMPTY = ROW | {"against": None, "paper": "", "values": [], "seeds": [], "ours": None, "low": None, "high": None}
EMPTY |= {"claim": "E1", "p": None, "crossed": None, "df": None, "verdict": "not run", "epochs": None}


def test_csv() -> None:
    content = to_csv(verdicts.table([ROW, EMPTY]))
    header, first, _ = content.decode().splitlines()
    assert header == "claim,protocol,arm,paper,ours,low,high,margin,verdict"
    assert first == "C1,digits,margin-50,+0.6,1.500,-4.853,7.853,> -1,undecided (interim: 2 of 3 seeds)"
    back = pd.read_csv(io.BytesIO(content)).set_index("claim")
    assert back.loc["E1", ["ours", "low", "high", "paper"]].isna().all()
    assert to_csv(verdicts.table([])).decode().strip() == header


def test_readable() -> None:
    ratio = ROW | {"unit": "ratio", "ours": 0.5, "low": 0.5, "high": 0.5, "values": [0.5, 0.5], "verdict": FACT}
    ratio |= {"p": None, "crossed": None, "df": 0}
    level = ROW | {"unit": "percent", "ours": 90.4, "low": None, "high": None, "values": [90.4], "crossed": None}
    shown = verdicts.readable([ROW, EMPTY, ratio, level])
    names = ["paper", "ours", "interval", "seeds × images", "verdict", "df", "p", "Holm's p", "every seed or round"]
    assert shown[names].to_numpy().tolist() == [
        ["+0.6", "+1.50", "-4.85 to +7.85", "+0.50 to +2.50", "undecided (interim: 2 of 3 seeds)", 4, "< 0.001", "–",
         "+1.00, +2.00"],
        ["–", "–", "–", "–", "not run", "–", "–", "–", ""],
        ["+0.6", "0.500", "0.500 to 0.500", "–", "fact", "–", "–", "–", "0.500, 0.500"],
        ["+0.6", "90.40", "–", "–", "undecided (interim: 2 of 3 seeds)", 4, "< 0.001", "–", "90.40"],
    ]  # fmt: skip
