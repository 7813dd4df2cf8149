"""Every claim's verdict, on made-up runs with a known effect; the verdicts as files."""

import io
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seladv.evaluation.outcomes import pack
from seladv.report import verdicts
from seladv.report.claims import CLAIMS, NOT_RUN, NOT_SUPPORTED, PAPER_ARMS, SUPPORTED, UNDECIDED, Region, rounds
from seladv.report.table import to_csv
from seladv.study import params
from seladv.study.protocol import Protocol

ROOT = Path(__file__).parent.parent
WOBBLE = (-0.2, 0.1, 0.0, 0.3, -0.2)  # the spread of the paired differences: half-width 0.26
ARMS = ("full", "full-k5", "random-50", "margin-50", "gradmatch-50")
SHARP = {SUPPORTED, NOT_SUPPORTED, UNDECIDED}

Metrics = dict[str, list[dict[str, Any]]]
Row = dict[str, Any]


def run(seed: int, **changes: Any) -> dict[str, Any]:
    """A run's metrics, as far as claims read them."""
    made = {"clean": 97.0, "robust": 80.0, "attack": 1000.0, "total": 1200.0, "scoring": 0.0} | changes
    epochs = ((1.0, 1.0), (9.0, 3.0), (1.0, 1.0))  # the second is slow: scoring takes three times its share
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


def decide(metrics: Metrics, timing: dict[str, Any] | None = None, **changes: Any) -> dict[tuple[str, str], Row]:
    asked = params.load(ROOT / "params.yaml", "mnist").model_dump() | changes
    rows = verdicts.decide("mnist", metrics, Protocol.model_validate(asked), timing)
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
def test_accuracy(claim: str, key: str, shifts: tuple[float, ...]) -> None:
    for verdict, shift in zip((SUPPORTED, NOT_SUPPORTED, UNDECIDED), shifts, strict=True):
        row = decide(study(margin_50={key: shift}))[claim, "margin-50"]
        assert row["verdict"] == verdict
        assert row["ours"] == pytest.approx(shift)
        assert row["high"] - row["low"] == pytest.approx(0.526, abs=0.005)  # pairing removes the seeds' own spread


@pytest.mark.parametrize(
    ("shift", "verdict"),
    [(0.0, SUPPORTED), (3.0, NOT_SUPPORTED), (-3.0, NOT_SUPPORTED), (1.0, UNDECIDED), (-1.0, UNDECIDED)],
)
def test_criteria_alike(shift: float, verdict: str) -> None:
    assert decide(study(margin_50={"robust": shift}))["C5", "margin-50"]["verdict"] == verdict


def test_wide_interval() -> None:
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
def test_passes(claim: str, key: str, of_full: float, verdict: str, seeds: int) -> None:
    row = decide(study(seeds, margin_50={key: of_full * (1000 if key == "attack" else 1200)}))[claim, "margin-50"]
    assert (row["verdict"], row["p"]) == (verdict, None)
    assert row["low"] == row["high"] == pytest.approx(of_full)


def test_passes_on_both_sides() -> None:
    metrics = study(2)
    for record, passes in zip(metrics["margin-50"], (500.0, 600.0), strict=True):
        record["training"]["cost"]["attack_passes"] = passes
    row = decide(metrics)["C3", "margin-50"]
    assert (row["verdict"], row["low"], row["high"]) == (UNDECIDED, 0.5, 0.6)


@pytest.mark.parametrize(("share", "verdict"), [(0.5, SUPPORTED), (0.8, NOT_SUPPORTED), (0.6, UNDECIDED)])
def test_epoch_times(share: float, verdict: str) -> None:
    row = decide(study(), TIMES[share])["C4", "margin-50"]
    assert row["verdict"] == verdict
    assert row["ours"] == pytest.approx(share + 0.005)
    assert len(row["values"]) == len(FULL)


def test_epochs_not_timed() -> None:
    rows = decide(study(), timing(full=FULL))
    for claim in ("C4", "C5-time"):
        assert (rows[claim, "margin-50"]["verdict"], rows[claim, "margin-50"]["decided_by"]) == (
            UNDECIDED,
            "not measured",
        )


def test_unequal_rounds() -> None:
    with pytest.raises(ValueError, match="margin-50 has 1 rounds, full 2"):
        rounds(timing(full=[1.0, 1.0], margin_50=[1.0]), "margin-50", "full")


@pytest.mark.parametrize(("total", "verdict"), [(590.0, SUPPORTED), (600.0, NOT_SUPPORTED), (610.0, NOT_SUPPORTED)])
def test_cheaper_in_passes(total: float, verdict: str) -> None:
    rows = decide(study(margin_50={"total": total}, gradmatch_50={"total": 600.0}))
    assert rows["C5-cost", "margin-50"]["verdict"] == verdict


@pytest.mark.parametrize(("slower", "verdict"), [(1.1, SUPPORTED), (0.9, NOT_SUPPORTED), (1.0, UNDECIDED)])
def test_cheaper_in_time(slower: float, verdict: str) -> None:
    times = timing(
        margin_50=[5.0, 5.1, 5.0, 5.1], gradmatch_50=[5.1 * slower, 5.0 * slower, 5.1 * slower, 5.0 * slower]
    )
    assert decide(study(), times)["C5-time", "margin-50"]["verdict"] == verdict


@pytest.mark.parametrize(("share", "verdict"), [(0.05, SUPPORTED), (0.2, NOT_SUPPORTED), (0.1, UNDECIDED)])
def test_scoring_share(share: float, verdict: str) -> None:
    row = decide(study(gradmatch_50={"scoring": share}))["C6", "gradmatch-50"]
    assert row["verdict"] == verdict
    assert row["ours"] == pytest.approx(share)


@pytest.mark.parametrize("shift", [-2.0, -1.0, 0.0, 1.0, 2.0])
@pytest.mark.parametrize("share", [0.05, 0.1, 0.2])
def test_p_and_verdict_agree(shift: float, share: float) -> None:
    effect = {"robust": shift, "clean": shift, "scoring": share}
    for row in decide(study(margin_50=effect, gradmatch_50={"scoring": share}), TIMES[0.6]).values():
        if row["p"] is not None and row["p_holm"] is None:
            assert (row["p"] < 0.05) == (row["verdict"] != UNDECIDED), row


def test_one_seed() -> None:
    rows = decide(study(1, margin_50={"robust": 7.0}))
    for claim in ("C1", "C2", "C5", "C7", "E1"):
        row = rows[claim, "margin-50"]
        assert (row["verdict"], row["low"], row["high"], row["p"]) == (UNDECIDED, None, None, None)
        assert f"{row['ours']:.3g} (one value, no interval)" == row["decided_by"]


def test_two_seeds() -> None:
    assert "of two values" in decide(study(2))["C1", "margin-50"]["decided_by"]
    assert "of two values" not in decide(study(3))["C1", "margin-50"]["decided_by"]


def test_not_run() -> None:
    rows = decide(study(arms=("full", "margin-50")))
    assert rows["C1", "gradmatch-50"]["verdict"] == NOT_RUN
    assert {rows[claim, "margin-50"]["verdict"] for claim in ("C5", "C7", "E1")} == {NOT_RUN}
    assert rows["C1", "margin-50"]["verdict"] in SHARP
    assert {row["verdict"] for row in decide(study(arms=("clean",))).values()} == {NOT_RUN}


def test_every_claim_has_a_row() -> None:
    for arms in (ARMS, ("clean",), ("random-25", "gradmatch-25")):
        claims = {claim for claim, _ in decide(study(arms=arms))}
        assert {"C1", "C2", "C3", "C4", "C5", "C6", "C7", "E1"} <= claims <= {claim.id for claim in CLAIMS}


def test_comparisons() -> None:
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
    rows = decide(study(arms=(*plan, "margin-50-whole", "as-coded-margin", "gradmatch-last-50", "fgsm")))
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


def test_holm_withdraws_support() -> None:
    alone = decide(study(margin_50={"robust": 0.3}))["C7", "margin-50"]
    assert 0.025 < alone["p"] < 0.05
    assert alone["low"] > 0
    assert alone["p_holm"] == pytest.approx(2 * alone["p"])  # of two arms; the other has a larger p
    assert alone["verdict"] == UNDECIDED
    assert "Holm" in alone["decided_by"]
    only = decide(study(arms=("full", "random-50", "margin-50"), margin_50={"robust": 0.3}))["C7", "margin-50"]
    assert (only["p_holm"], only["verdict"]) == (only["p"], SUPPORTED)


@pytest.mark.parametrize("shift", [0.3, 0.5, 3.0])
def test_holm_keeps_other_verdicts(shift: float) -> None:
    """An arm behind random selection stays not supported, whatever Holm's p of its family is."""
    arms = ("full", "random-50", "margin-50", "gradmatch-50", "el2n-50", "graddot-50")
    metrics = study(arms=arms, margin_50={"robust": -shift})
    row = decide(metrics)["C7", "margin-50"]
    assert row["high"] < 0
    assert row["p_holm"] >= row["p"]
    assert (row["p_holm"] >= 0.05) == (shift == 0.3)
    assert (row["verdict"], row["decided_by"]) == (NOT_SUPPORTED, f"upper end {row['high']:.3g}")


def test_easy_is_in_no_family() -> None:
    """The negative control is compared with random, not corrected, and leaves the other arms' p as they were."""
    arms = ("full", "random-50", "margin-50")
    alone = decide(study(arms=arms, margin_50={"robust": 0.3}))["C7", "margin-50"]
    metrics = study(arms=(*arms, "easy-50"), margin_50={"robust": 0.3})
    for record, wobble in zip(metrics["easy-50"], (-9.0, -2.0, -4.0, -15.0, -18.0), strict=True):
        record["robust"] += wobble
    rows = decide(metrics)
    easy = rows["C7", "easy-50"]
    assert 0.025 < easy["p"] < 0.05  # in a family of two, Holm's p would be above the level
    assert (easy["verdict"], easy["against"], easy["p_holm"]) == (NOT_SUPPORTED, "random-50", None)
    assert rows["C7", "margin-50"] == alone
    assert alone["verdict"] == SUPPORTED


def test_no_correction_of_single_claims() -> None:
    rows = decide(study())
    assert {claim for (claim, _), row in rows.items() if row["p_holm"] is not None} == {"C7"}


def test_figures_of_the_paper() -> None:
    rows = decide(study())
    assert rows["C1", "margin-50"]["paper"] == "+0.6"
    assert rows["C2", "gradmatch-50"]["paper"] == "-0.3"
    assert rows["C5", "margin-50"]["paper"] == "+0.2"
    assert rows["C3", "margin-50"]["paper"] == "~45 %"
    assert (
        rows["C1", "random-50"]["paper"] == rows["C3", "random-50"]["paper"] == rows["C7", "margin-50"]["paper"] == ""
    )


def test_interval_over_examples() -> None:
    metrics = study(arms=("full", "margin-50"))
    hits = {"full": torch.arange(200) < 120, "margin-50": torch.arange(200) < 130}
    for arm, records in metrics.items():
        for record in records:
            record["attacks"] = {"pgd": {"robust": 0.0, "examples": 200, "outcomes": pack(hits[arm])}}
    low, high = decide(metrics)["C1", "margin-50"]["examples"]
    assert 1.5 < low < 5.0 < high < 9.0  # ten of 200 images: five points
    assert decide(metrics)["C2", "margin-50"]["examples"] is None
    del metrics["full"][0]["attacks"]
    assert decide(metrics)["C1", "margin-50"]["examples"] is None


def test_worst_case() -> None:
    metrics = study()
    assert not [claim for claim, _ in decide(metrics) if claim.endswith("-worst")]
    for arm, records in metrics.items():
        for record, wobble in zip(records, WOBBLE, strict=True):
            record["worst_case"] = {"robust": 40.0 + (3 + wobble) * (arm == "margin-50"), "examples": 100}
    rows = decide(metrics)
    assert rows["C1-worst", "margin-50"]["verdict"] == rows["C7-worst", "margin-50"]["verdict"] == SUPPORTED
    assert rows["C7-worst", "margin-50"]["ours"] == pytest.approx(3.0)
    del metrics["full"][0]["worst_case"]
    assert ("C1-worst", "margin-50") not in decide(metrics)


@given(
    st.lists(st.floats(-4, 4).map(lambda value: round(value, 2)), min_size=5, max_size=5),
    st.floats(0, 3).map(lambda value: round(value, 2)),
)
def test_better_arm(differences: list[float], shift: float) -> None:
    order = [NOT_SUPPORTED, UNDECIDED, SUPPORTED]
    grades: dict[str, list[int]] = {"C1": [], "C7": [], "E1": []}
    for more in (0.0, shift):
        metrics = study(arms=("full", "full-k5", "random-50", "margin-50"))
        for index, difference in enumerate(differences):
            metrics["margin-50"][index]["robust"] = metrics["full"][index]["robust"] + difference + more
        rows = decide(metrics)
        for claim, grade in grades.items():
            grade.append(order.index(rows[claim, "margin-50"]["verdict"]))
    assert all(before <= after for before, after in grades.values())


@given(st.floats(-3, 3), st.floats(0, 2), st.floats(0, 2))
def test_narrower_interval(centre: float, half: float, less: float) -> None:
    for claim in CLAIMS:
        wide = claim.region.verdict(centre - half, centre + half)
        narrow = claim.region.verdict(centre - half / (1 + less), centre + half / (1 + less))
        assert narrow == wide or wide == UNDECIDED


# ---- files

ROW: dict[str, Any] = {
    "claim": "C1", "says": "", "protocol": "digits", "arm": "margin-50", "against": "full", "paper": "+0.6",
    "unit": "points", "over": "seeds", "values": [1.0, 2.0], "seeds": [3, 5], "ours": 1.5, "low": -4.85312,
    "high": 7.85312, "margin": "> -1", "p": 0.0004, "p_holm": None, "examples": [0.5, 2.5], "verdict": "undecided",
    "decided_by": "lower end -4.85", "budget": {"epochs": 20, "total_passes": 374160.0, "reference_passes": 615020.0},
}  # fmt: skip
EMPTY = ROW | {"against": None, "paper": "", "values": [], "seeds": [], "ours": None, "low": None, "high": None}
EMPTY |= {"claim": "E1", "p": None, "examples": None, "verdict": "not run", "budget": None}


def test_csv() -> None:
    content = to_csv(verdicts.table([ROW, EMPTY]))
    header, first, _ = content.decode().splitlines()
    assert header == "claim,protocol,arm,paper,ours,low,high,margin,verdict"
    assert first == "C1,digits,margin-50,+0.6,1.500,-4.853,7.853,> -1,undecided"
    back = pd.read_csv(io.BytesIO(content)).set_index("claim")
    assert back.loc["E1", ["ours", "low", "high", "paper"]].isna().all()
    assert to_csv(verdicts.table([])).decode().strip() == header


def test_readable() -> None:
    ratio = ROW | {
        "unit": "ratio",
        "ours": 0.5,
        "low": 0.5,
        "high": 0.5,
        "values": [0.5, 0.5],
        "p": None,
        "examples": None,
    }
    shown = verdicts.readable([ROW, EMPTY, ratio])
    names = ["paper", "ours", "interval", "verdict", "p", "Holm's p", "over images", "every seed or round"]
    assert shown[names].to_numpy().tolist() == [
        ["+0.6", "+1.50", "-4.85 to +7.85", "undecided", "< 0.001", "–", "+0.50 to +2.50", "+1.00, +2.00"],
        ["–", "–", "–", "not run", "–", "–", "–", ""],
        ["+0.6", "0.500", "0.500 to 0.500", "undecided", "–", "–", "–", "0.500, 0.500"],
    ]
