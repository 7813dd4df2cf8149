"""The effect of each difference between the description and the code: the arms compared, the numbers."""

from typing import Any

import pytest

from seladv.report import discrepancies
from seladv.report.claims import NOT_RUN
from seladv.report.discrepancies import DISCREPANCIES

Metrics = dict[str, list[dict[str, Any]]]


def metrics(**robust: float) -> Metrics:
    """Arms (spelt with _) with their mean robust accuracy over three seeds, between which all fall alike."""
    return {
        arm.replace("_", "-"): [
            {"seed": seed, "robust": value + shift + (index % 2) * wobble}
            for seed, shift, wobble in ((0, 5.0, 0.1), (1, 0.0, -0.2), (2, -5.0, 0.1))
        ]
        for index, (arm, value) in enumerate(robust.items())
    }


def effects(**robust: float) -> dict[tuple[str, str], tuple[str, float]]:
    """(point, arm) → what the arm was compared with, and the mean effect; rows without an effect left out."""
    rows = discrepancies.effects("digits", metrics(**robust))
    return {(row["point"], row["arm"]): (row["against"], round(row["effect"][0], 6)) for row in rows if row["effect"]}


def test_effects() -> None:
    assert effects(margin_50=80, margin_25=90, gradmatch_50=66, gradmatch_25=64, full=82, random_50=79) == {
        ("ratio", "margin-25"): ("margin-50", 10),
        ("ratio", "gradmatch-25"): ("gradmatch-50", -2),
    }
    assert effects(
        margin_50=80, margin_50_whole=77, margin_50_warmup=81, margin_50_frozen=79, full=82, full_frozen=83
    ) == {
        ("clean part of the loss", "margin-50-whole"): ("margin-50", -3),
        ("warm-up", "margin-50-warmup"): ("margin-50", 1),
        ("batch norm", "margin-50-frozen"): ("margin-50", -1),
        ("batch norm", "full-frozen"): ("full", 1),
    }
    assert effects(margin_50=80, margin_sampled_50=70, gradmatch_50=66, el2n_sampled_50=60, el2n_50=61) == {
        ("margin", "margin-sampled-50"): ("margin-50", -10),
        ("gradient matching", "el2n-sampled-50"): ("gradmatch-50", -6),
        ("gradient matching, score alone", "el2n-50"): ("gradmatch-50", -5),
    }
    assert effects(margin_50=80, as_coded_margin=70, gradmatch_50=66, as_coded_gradmatch=60) == {
        ("all of them, margin", "as-coded-margin"): ("margin-50", -10),
        ("all of them, gradient matching", "as-coded-gradmatch"): ("gradmatch-50", -6),
    }


def test_one_switch_at_a_time() -> None:
    assert effects(margin_sampled_25=91, margin_sampled_25_whole=88, margin_25_whole=85) == {
        ("margin", "margin-sampled-25-whole"): ("margin-25-whole", 3),
        ("clean part of the loss", "margin-sampled-25-whole"): ("margin-sampled-25", -3),
    }


def test_paired_interval() -> None:
    (row,) = (row for row in discrepancies.effects("digits", metrics(full=80, full_frozen=83)) if row["effect"])
    mean, low, high = row["effect"]
    assert row["values"] == pytest.approx([3.1, 2.8, 3.1])
    assert (low, high) == pytest.approx((mean - 0.43027, mean + 0.43027), abs=1e-4)  # t(0.975, 2) · 0.1
    assert row["p"] < 0.05


def test_not_run() -> None:
    rows = discrepancies.effects("digits", metrics(full=80))
    assert [row["point"] for row in rows] == [item.point for item in DISCREPANCIES]
    assert {row["note"] for row, item in zip(rows, DISCREPANCIES, strict=True) if item.arms} == {NOT_RUN}
    rows = discrepancies.effects("digits", metrics(margin_50_whole=80))  # the arm without its counterpart
    assert not [row for row in rows if row["effect"]]


def test_readable() -> None:
    rows = discrepancies.effects("digits", metrics(full=80, full_frozen=83)) + discrepancies.effects("mnist", {})
    shown = discrepancies.readable(rows).set_index(["point", "protocol"])
    found = shown.loc[("batch norm", "digits")].tolist()
    assert found == ["full-frozen", "full", "+3.00", "+2.57 to +3.43", "+3.10, +2.80, +3.10"]
    assert shown.loc[("batch norm", "mnist")].tolist() == ["margin-50-frozen", "–", "not run", "–", ""]
    assert discrepancies.described()["point"].tolist() == [item.point for item in DISCREPANCIES]
