"""Every claim's verdict, on made-up runs whose effect is known."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seladv import params, verdicts
from seladv.claims import CLAIMS, NOT_RUN, NOT_SUPPORTED, PAPER_ARMS, SUPPORTED, UNDECIDED, Region
from seladv.measures import rounds
from seladv.outcomes import pack

ROOT = Path(__file__).parent.parent
WOBBLE = (-0.2, 0.1, 0.0, 0.3, -0.2)  # what is left of the seeds' differences: half-width 0.26
ARMS = ("full", "full-k5", "random-50", "margin-50", "gradmatch-50")
SHARP = {SUPPORTED, NOT_SUPPORTED, UNDECIDED}

Metrics = dict[str, list[dict[str, Any]]]
Row = dict[str, Any]


def run(seed: int, **changes: Any) -> dict[str, Any]:
    """A run's metrics, as far as claims read them."""
    made = {"clean": 97.0, "robust": 80.0, "attack": 1000.0, "total": 1200.0, "scoring": 0.0} | changes
    epochs = ((1.0, 1.0), (9.0, 3.0), (1.0, 1.0))  # in the slow second one, scoring took three times its share
    history = [{"seconds": {"scoring": made["scoring"] * t * more}, "epoch_seconds": t} for t, more in epochs]
    cost = {"attack_passes": made["attack"], "total_passes": made["total"]}
    found = {key: made[key] for key in ("clean", "robust", "worst_case", "attacks") if key in made}
    return {"seed": seed, **found, "training": {"cost": cost, "history": history}}


def study(seeds: int = 5, arms: tuple[str, ...] = ARMS, **effects: dict[str, float]) -> Metrics:
    """`arms` over `seeds`; an effect (its arm spelt with _) is a shift of accuracies, or the value of anything else."""
    metrics: Metrics = {}
    for arm in arms:
        effect = effects.get(arm.replace("-", "_"), {})
        metrics[arm] = []
        for seed in range(seeds):
            wobble = WOBBLE[seed] if arm in PAPER_ARMS[:1] else -WOBBLE[-seed - 1] if arm in PAPER_ARMS else 0.0
            common = {"clean": 97.0 + seed, "robust": 80.0 - 3 * seed}  # seeds differ by more than arms do
            shifted = {key: value + wobble + effect.get(key, 0.0) for key, value in common.items()}
            others = {key: value for key, value in effect.items() if key not in common}
            spread = {"scoring": others["scoring"] + wobble / 100} if "scoring" in others else {}
            metrics[arm].append(run(seed, **others | shifted | spread))
    return metrics


def judge(metrics: Metrics, timing: dict[str, Any] | None = None, **changes: Any) -> dict[tuple[str, str], Row]:
    asked = params.load(ROOT / "params.yaml", "mnist").model_dump() | changes
    rows = verdicts.judge("mnist", metrics, params.Protocol.model_validate(asked), timing)
    json.dumps(rows, allow_nan=False)
    return {(row["claim"], row["arm"]): row for row in rows}


def timing(**seconds: list[float]) -> dict[str, Any]:
    return {"machine": {}, "epoch_seconds": {arm.replace("_", "-"): values for arm, values in seconds.items()}}


FULL = [10.0, 20.0, 10.2, 9.9]  # the second round was slow, for every arm
TIMES = {
    share: timing(full=FULL, margin_50=[t * (share + w) for t, w in zip(FULL, (0.0, 0.01, -0.01, 0.02), strict=True)])
    for share in (0.5, 0.6, 0.8)
}


@pytest.mark.parametrize(
    ("claim", "key", "shifts"),
    [
        ("C1", "robust", (0.0, -2.0, -1.0)),
        ("C1", "robust", (5.0, -9.0, -0.8)),
        ("C2", "clean", (0.0, -2.0, -1.0)),
        ("C7", "robust", (1.0, -1.0, 0.0)),
        ("E1", "robust", (0.0, -2.0, -1.0)),
    ],
)
def test_accuracy_of_known_effect(claim: str, key: str, shifts: tuple[float, ...]) -> None:
    for verdict, shift in zip((SUPPORTED, NOT_SUPPORTED, UNDECIDED), shifts, strict=True):
        row = judge(study(margin_50={key: shift}))[claim, "margin-50"]
        assert row["verdict"] == verdict
        assert row["ours"] == pytest.approx(shift)
        assert row["high"] - row["low"] == pytest.approx(0.526, abs=0.005)  # the seeds' own spread is paired away


@pytest.mark.parametrize(
    ("shift", "verdict"),
    [(0.0, SUPPORTED), (3.0, NOT_SUPPORTED), (-3.0, NOT_SUPPORTED), (1.0, UNDECIDED), (-1.0, UNDECIDED)],
)
def test_the_criteria_are_alike_within_a_point_to_either_side(shift: float, verdict: str) -> None:
    assert judge(study(margin_50={"robust": shift}))["C5", "margin-50"]["verdict"] == verdict


def test_an_interval_around_the_whole_margin_decides_nothing() -> None:
    assert Region(-1, 1).verdict(-5, 5) == UNDECIDED


@pytest.mark.parametrize(
    ("claim", "key", "of_full", "verdict"),
    [
        ("C3", "attack", 0.50, SUPPORTED),
        ("C3", "attack", 0.55, SUPPORTED),  # at most: the margin itself is inside
        ("C3", "attack", 0.56, NOT_SUPPORTED),
        ("C3-total", "total", 0.53, SUPPORTED),
        ("C3-total", "total", 0.61, NOT_SUPPORTED),
    ],
)
@pytest.mark.parametrize("seeds", [1, 5])
def test_counted_passes_need_no_interval(claim: str, key: str, of_full: float, verdict: str, seeds: int) -> None:
    row = judge(study(seeds, margin_50={key: of_full * (1000 if key == "attack" else 1200)}))[claim, "margin-50"]
    assert (row["verdict"], row["p"]) == (verdict, None)
    assert row["low"] == row["high"] == pytest.approx(of_full)


def test_counts_on_either_side_of_the_margin_are_undecided() -> None:
    metrics = study(2)
    for record, passes in zip(metrics["margin-50"], (500.0, 600.0), strict=True):
        record["training"]["cost"]["attack_passes"] = passes
    row = judge(metrics)["C3", "margin-50"]
    assert (row["verdict"], row["low"], row["high"]) == (UNDECIDED, 0.5, 0.6)


@pytest.mark.parametrize(("share", "verdict"), [(0.5, SUPPORTED), (0.8, NOT_SUPPORTED), (0.6, UNDECIDED)])
def test_epoch_times_are_compared_round_by_round(share: float, verdict: str) -> None:
    row = judge(study(), TIMES[share])["C4", "margin-50"]
    assert row["verdict"] == verdict
    assert row["ours"] == pytest.approx(share + 0.005)
    assert len(row["values"]) == len(FULL)


def test_times_of_training_are_no_measurement() -> None:
    rows = judge(study(), timing(full=FULL))
    for claim in ("C4", "C5-time"):
        assert (rows[claim, "margin-50"]["verdict"], rows[claim, "margin-50"]["decided_by"]) == (
            UNDECIDED,
            "not measured",
        )


def test_rounds_that_do_not_pair_are_refused() -> None:
    with pytest.raises(ValueError, match="margin-50 has 1 rounds, full 2"):
        rounds(timing(full=[1.0, 1.0], margin_50=[1.0]), "margin-50", "full")


@pytest.mark.parametrize(("total", "verdict"), [(590.0, SUPPORTED), (600.0, NOT_SUPPORTED), (610.0, NOT_SUPPORTED)])
def test_cheaper_means_less_and_not_the_same(total: float, verdict: str) -> None:
    rows = judge(study(margin_50={"total": total}, gradmatch_50={"total": 600.0}))
    assert rows["C5-cost", "margin-50"]["verdict"] == verdict


@pytest.mark.parametrize(("slower", "verdict"), [(1.1, SUPPORTED), (0.9, NOT_SUPPORTED), (1.0, UNDECIDED)])
def test_cheaper_in_time(slower: float, verdict: str) -> None:
    times = timing(
        margin_50=[5.0, 5.1, 5.0, 5.1], gradmatch_50=[5.1 * slower, 5.0 * slower, 5.1 * slower, 5.0 * slower]
    )
    assert judge(study(), times)["C5-time", "margin-50"]["verdict"] == verdict


@pytest.mark.parametrize(("share", "verdict"), [(0.05, SUPPORTED), (0.2, NOT_SUPPORTED), (0.1, UNDECIDED)])
def test_the_share_of_scoring(share: float, verdict: str) -> None:
    row = judge(study(gradmatch_50={"scoring": share}))["C6", "gradmatch-50"]
    assert row["verdict"] == verdict
    assert row["ours"] == pytest.approx(share)


@pytest.mark.parametrize("shift", [-2.0, -1.0, 0.0, 1.0, 2.0])
@pytest.mark.parametrize("share", [0.05, 0.1, 0.2])
def test_p_and_the_interval_say_the_same(shift: float, share: float) -> None:
    effect = {"robust": shift, "clean": shift, "scoring": share}
    for row in judge(study(margin_50=effect, gradmatch_50={"scoring": share}), TIMES[0.6]).values():
        if row["p"] is not None and row["p_holm"] is None:
            assert (row["p"] < 0.05) == (row["verdict"] != UNDECIDED), row


def test_one_seed_decides_nothing_that_needs_an_interval_and_still_shows_its_number() -> None:
    rows = judge(study(1, margin_50={"robust": 7.0}))
    for claim in ("C1", "C2", "C5", "C7", "E1"):
        row = rows[claim, "margin-50"]
        assert (row["verdict"], row["low"], row["high"], row["p"]) == (UNDECIDED, None, None, None)
        assert f"{row['ours']:.3g} (one value, no interval)" == row["decided_by"]


def test_two_seeds_are_said_to_say_next_to_nothing() -> None:
    assert "next to nothing" in judge(study(2))["C1", "margin-50"]["decided_by"]
    assert "next to nothing" not in judge(study(3))["C1", "margin-50"]["decided_by"]


def test_what_is_not_in_the_plan_is_not_run() -> None:
    rows = judge(study(arms=("full", "margin-50")))
    assert rows["C1", "gradmatch-50"]["verdict"] == NOT_RUN
    assert {rows[claim, "margin-50"]["verdict"] for claim in ("C5", "C7", "E1")} == {NOT_RUN}
    assert rows["C1", "margin-50"]["verdict"] in SHARP
    assert {row["verdict"] for row in judge(study(arms=("clean",))).values()} == {NOT_RUN}


def test_every_claim_of_the_paper_has_its_row_whatever_is_run() -> None:
    for arms in (ARMS, ("clean",), ("random-25", "gradmatch-25")):
        claims = {claim for claim, _ in judge(study(arms=arms))}
        assert {"C1", "C2", "C3", "C4", "C5", "C6", "C7", "E1"} <= claims <= {claim.id for claim in CLAIMS}


def test_who_is_compared_with_whom() -> None:
    plan = (
        "full",
        "random-25",
        "random-50",
        "margin-25",
        "margin-sampled-25",
        "el2n-50",
        "easy-75",
        "full-k20",
        "margin-50-stale",
    )
    rows = judge(study(arms=(*plan, "margin-50-whole", "as-coded-margin", "gradmatch-last-50", "fgsm")))
    against = {arm: row["against"] for (claim, arm), row in rows.items() if claim == "C7" and row["against"]}
    assert against == {
        "margin-25": "random-25",
        "margin-sampled-25": "random-25",
        "el2n-50": "random-50",
        "margin-50-stale": "random-50",
        "gradmatch-last-50": "random-50",
    }
    with_full = {arm for (claim, arm), row in rows.items() if claim == "C1" and row["against"] == "full"}
    assert with_full == {"random-25", "random-50", "margin-25", "margin-50-stale", "as-coded-margin"}
    assert ("C6", "gradmatch-last-50") in rows


def test_only_what_survives_holm_beats_random() -> None:
    alone = judge(study(margin_50={"robust": 0.3}))["C7", "margin-50"]
    assert 0.025 < alone["p"] < 0.05
    assert alone["low"] > 0
    assert alone["p_holm"] == pytest.approx(2 * alone["p"])  # the other of the two is not near it
    assert alone["verdict"] == UNDECIDED
    assert "Holm" in alone["decided_by"]
    only = judge(study(arms=("full", "random-50", "margin-50"), margin_50={"robust": 0.3}))["C7", "margin-50"]
    assert (only["p_holm"], only["verdict"]) == (only["p"], SUPPORTED)


def test_claims_about_one_named_arm_are_not_corrected() -> None:
    rows = judge(study())
    assert {claim for (claim, _), row in rows.items() if row["p_holm"] is not None} == {"C7"}


def test_the_papers_figures_are_differences_of_its_table() -> None:
    rows = judge(study())
    assert rows["C1", "margin-50"]["paper"] == "+0.6"
    assert rows["C2", "gradmatch-50"]["paper"] == "-0.3"
    assert rows["C5", "margin-50"]["paper"] == "+0.2"
    assert rows["C3", "margin-50"]["paper"] == "~45 %"
    assert (
        rows["C1", "random-50"]["paper"] == rows["C3", "random-50"]["paper"] == rows["C7", "margin-50"]["paper"] == ""
    )


def test_the_examples_interval_is_of_the_same_difference() -> None:
    metrics = study(arms=("full", "margin-50"))
    hits = {"full": torch.arange(200) < 120, "margin-50": torch.arange(200) < 130}
    for arm, records in metrics.items():
        for record in records:
            record["attacks"] = {"pgd": {"robust": 0.0, "examples": 200, "outcomes": pack(hits[arm])}}
    low, high = judge(metrics)["C1", "margin-50"]["examples"]
    assert 1.5 < low < 5.0 < high < 9.0  # ten of 200 images: five points
    assert judge(metrics)["C2", "margin-50"]["examples"] is None
    del metrics["full"][0]["attacks"]
    assert judge(metrics)["C1", "margin-50"]["examples"] is None


def test_the_worst_case_is_judged_where_it_was_taken() -> None:
    metrics = study()
    assert not [claim for claim, _ in judge(metrics) if claim.endswith("-worst")]
    for arm, records in metrics.items():
        for record, wobble in zip(records, WOBBLE, strict=True):
            record["worst_case"] = {"robust": 40.0 + (3 + wobble) * (arm == "margin-50"), "examples": 100}
    rows = judge(metrics)
    assert rows["C1-worst", "margin-50"]["verdict"] == rows["C7-worst", "margin-50"]["verdict"] == SUPPORTED
    assert rows["C7-worst", "margin-50"]["ours"] == pytest.approx(3.0)
    del metrics["full"][0]["worst_case"]
    assert ("C1-worst", "margin-50") not in judge(metrics)


@given(
    st.lists(st.floats(-4, 4).map(lambda value: round(value, 2)), min_size=5, max_size=5),
    st.floats(0, 3).map(lambda value: round(value, 2)),
)
def test_a_better_arm_is_never_judged_worse(differences: list[float], shift: float) -> None:
    order = [NOT_SUPPORTED, UNDECIDED, SUPPORTED]
    grades: dict[str, list[int]] = {"C1": [], "C7": [], "E1": []}
    for more in (0.0, shift):
        metrics = study(arms=("full", "full-k5", "random-50", "margin-50"))
        for index, difference in enumerate(differences):
            metrics["margin-50"][index]["robust"] = metrics["full"][index]["robust"] + difference + more
        rows = judge(metrics)
        for claim, grade in grades.items():
            grade.append(order.index(rows[claim, "margin-50"]["verdict"]))
    assert all(before <= after for before, after in grades.values())


@given(st.floats(-3, 3), st.floats(0, 2), st.floats(0, 2))
def test_a_narrower_interval_never_takes_a_decision_back(centre: float, half: float, less: float) -> None:
    for claim in CLAIMS:
        wide = claim.region.verdict(centre - half, centre + half)
        narrow = claim.region.verdict(centre - half / (1 + less), centre + half / (1 + less))
        assert narrow == wide or wide == UNDECIDED
