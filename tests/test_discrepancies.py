"""The effect of each difference between the description and the code: the arms compared, the numbers."""

from typing import Any

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
    frame = discrepancies.effects("digits", metrics(**robust))
    measured = frame[frame["against"] != "–"].itertuples()
    return {(row.point, row.arm): (row.against, float(row.effect)) for row in measured}


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
        ("all of these, margin", "as-coded-margin"): ("margin-50", -10),
        ("all of these, gradient matching", "as-coded-gradmatch"): ("gradmatch-50", -6),
    }


def test_one_switch_at_a_time() -> None:
    assert effects(margin_sampled_25=91, margin_sampled_25_whole=88, margin_25_whole=85) == {
        ("margin", "margin-sampled-25-whole"): ("margin-25-whole", 3),
        ("clean part of the loss", "margin-sampled-25-whole"): ("margin-sampled-25", -3),
    }


def test_paired_interval() -> None:
    """t(0.975, 2) · 0.1 = 0.43 about the mean."""
    frame = discrepancies.effects("digits", metrics(full=80, full_frozen=83)).set_index("point")
    found = ["digits", "full-frozen", "full", "+3.00", "+2.57 to +3.43", "+3.10, +2.80, +3.10"]
    assert frame.loc["batch norm"].tolist() == found
    assert frame.loc["margin", ["arm", "against", "effect"]].tolist() == ["margin-sampled-25", "–", NOT_RUN]


def test_not_run() -> None:
    frame = discrepancies.effects("digits", metrics(full=80))
    assert frame["point"].tolist() == [item.point for item in DISCREPANCIES]
    assert frame["effect"].tolist() == [NOT_RUN if item.arms else item.example for item in DISCREPANCIES]
    assert not effects(margin_50_whole=80)  # the arm without its counterpart
