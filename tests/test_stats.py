"""Intervals, tests and corrections, against printed tables, the first publication's outcomes and simulated studies."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats
from statsmodels.stats.multitest import multipletests

from seladv.evaluation.outcomes import unpack
from seladv.report import stats
from seladv.report.claims import NOT_SUPPORTED, ON_PAR, SUPPORTED, UNDECIDED

FIRST = Path(__file__).parents[1] / "results/first/metrics"
numbers = st.floats(-50, 50).map(lambda value: round(value, 3))
samples = st.lists(numbers, min_size=2, max_size=8).filter(lambda values: max(values) - min(values) > 0.01)

# ---- the additive model


def test_contrast_by_hand() -> None:
    """Three arms, two seeds: residuals ±1/3, ±1/3, ∓2/3, so 4/3 over 2 degrees of freedom; t(0.975, 2) = 4.302653."""
    values = {"a": [1.0, 3.0], "b": [2.0, 4.0], "c": [4.0, 4.0]}
    half = 4.302653 * (2 / 3) ** 0.5  # √(2 · MS / S)
    mean, low, high, p, df = stats.contrast(values, "c", "a")
    assert (mean, low, high, df) == pytest.approx((2.0, 2 - half, 2 + half, 2), abs=1e-5)
    assert p == pytest.approx(2 * scipy_stats.t.sf(2 / (2 / 3) ** 0.5, 2))


@given(samples, numbers)
def test_two_arms_are_a_paired_t_test(values: list[float], bound: float) -> None:
    test = scipy_stats.ttest_1samp(values, bound)
    block = {"arm": [50 + value for value in values], "other": [50.0] * len(values)}
    mean, low, high, p, df = stats.contrast(block, "arm", "other", bound)
    assert (mean, low, high) == pytest.approx((np.mean(values), *test.confidence_interval(0.95)), abs=1e-6)
    assert p == pytest.approx(float(test.pvalue), abs=1e-6)
    assert df == len(values) - 1
    assert low is not None
    assert high is not None
    if min(abs(low - bound), abs(high - bound)) > 1e-6:
        assert (p < stats.LEVEL) == (not low <= bound <= high)


@pytest.mark.parametrize("values", [[2.0], [0.5, 0.5, 0.5], [0.1 + 0.2, 0.3]])
def test_no_interval(values: list[float]) -> None:
    found = stats.contrast({"arm": values, "other": [0.0] * len(values)}, "arm", "other")
    assert found == (pytest.approx(np.mean(values)), None, None, None, 0)


def test_error_rate() -> None:
    """1,000 studies of five arms and five seeds, one arm exactly at the margin: either verdict is false in 2.5 %."""
    draw = np.random.default_rng(3)
    found = []
    for _ in range(1000):
        accuracies = draw.normal(size=(5, 5)) + 3 * draw.normal(size=5)  # [arm, seed]: the seed's own part is common
        accuracies[4] += ON_PAR.low
        found.append(stats.contrast(dict(zip("abcde", accuracies.tolist(), strict=True)), "e", "a", ON_PAR.low))
    verdicts = [ON_PAR.verdict(each.low, each.high) for each in found]  # type: ignore[arg-type]
    assert 12 <= verdicts.count(SUPPORTED) <= 40  # 25 ± 5
    assert 12 <= verdicts.count(NOT_SUPPORTED) <= 40
    assert sum(each.p < stats.LEVEL for each in found) == 1000 - verdicts.count(UNDECIDED)  # type: ignore[operator]
    assert np.std([each.mean for each in found]) == pytest.approx((2 / 5) ** 0.5, rel=0.1)  # the seeds' part is gone


# ---- the first publication, as recomputed by other code


def runs(protocol: str, arm: str) -> list[dict[str, Any]]:
    return [json.loads((FIRST / protocol / f"{arm}-{seed}.json").read_text()) for seed in range(3)]


ARMS = {
    "mnist": ("full", "full-k20", "random-50", "margin-50", "gradmatch-50"),
    "cifar10-small": ("full", "full-k5", "random-50", "margin-50"),
}


@pytest.fixture(scope="module")
def first() -> Mapping[str, dict[str, list[dict[str, Any]]]]:
    return {protocol: {arm: runs(protocol, arm) for arm in arms} for protocol, arms in ARMS.items()}


@pytest.mark.parametrize(
    ("protocol", "other", "mean", "half"),
    [
        ("mnist", "random-50", 1.48, 0.93),
        ("mnist", "full", 3.46, 0.93),
        ("cifar10-small", "random-50", -1.26, 0.42),
        ("cifar10-small", "full", -3.95, 0.42),
    ],
)
def test_pooled_half_width(first: Any, protocol: str, other: str, mean: float, half: float) -> None:
    block = {name: [run["robust"] for run in of_arm] for name, of_arm in first[protocol].items()}
    found = stats.contrast(block, "margin-50", other)
    assert found.mean == pytest.approx(mean, abs=0.006)
    assert (found.high - found.low) / 2 == pytest.approx(half, abs=0.005)  # type: ignore[operator]
    assert found.df == 2 * (len(block) - 1)


def test_pooled_p_and_holm(first: Any) -> None:
    block = {name: [run["robust"] for run in of_arm] for name, of_arm in first["mnist"].items()}
    raw = [stats.contrast(block, arm, "random-50").p for arm in ("margin-50", "gradmatch-50")]
    assert raw[0] == pytest.approx(0.006, abs=0.0005)
    assert stats.holm(raw)[0] == pytest.approx(0.012, abs=0.001)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("protocol", "other", "low", "high"),
    [
        ("mnist", "full", 2.84, 4.08),
        ("mnist", "random-50", 0.15, 2.82),
        ("cifar10-small", "random-50", -1.62, -0.91),
        ("cifar10-small", "full-k5", -4.77, -3.10),
    ],
)
def test_crossed(first: Any, protocol: str, other: str, low: float, high: float) -> None:
    entries = [run["attacks"]["pgd"] for arm in ("margin-50", other) for run in first[protocol][arm]]
    hits = np.array([unpack(entry["outcomes"], entry["examples"]).numpy() for entry in entries], dtype=float)
    assert stats.crossed(100 * (hits[:3] - hits[3:])) == pytest.approx((low, high), abs=0.006)


def test_crossed_coverage() -> None:
    """300 studies of four seeds and 100 images, each with an effect of its own."""
    draw = np.random.default_rng(1)
    covered = 0
    for _ in range(300):
        seeds, images, rest = draw.normal(size=(4, 1)), 5 * draw.normal(size=(1, 100)), 5 * draw.normal(size=(4, 100))
        low, high = stats.crossed(2.0 + seeds + images + rest)  # type: ignore[misc]
        covered += low <= 2.0 <= high
    assert 0.91 <= covered / 300 <= 0.99


def test_crossed_without_interval() -> None:
    assert stats.crossed(np.ones((1, 9))) is None
    assert stats.crossed(np.ones((3, 9))) is None
    assert stats.crossed(np.ones((3, 1))) is None


# ---- Holm, one value per seed


def test_holm() -> None:
    # sorted 0.005, 0.01, 0.03, 0.04: × 4 = 0.02, × 3 = 0.03, × 2 = 0.06, × 1 = 0.04, which is lifted to 0.06
    assert stats.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert stats.holm([0.6, 0.7]) == [1.0, 1.0]
    assert stats.holm([]) == []
    p = np.random.default_rng(0).random(20) ** 3
    assert stats.holm(p.tolist()) == pytest.approx(multipletests(p, method="holm")[1])


def test_half_width() -> None:
    mean, half = stats.mean_and_half_width([1.0, 2.0, 3.0])
    assert mean == 2.0
    assert half == pytest.approx(4.302653 / 3**0.5)  # t(0.975, 2) from a printed table, standard deviation 1
    assert stats.mean_and_half_width([7.0]) == (7.0, None)
    with pytest.raises(ValueError, match="no values"):
        stats.mean_and_half_width([])
