"""Intervals, tests and corrections, against printed tables, worked examples and simulation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from seladv.report import stats

numbers = st.floats(-50, 50).map(lambda value: round(value, 3))
samples = st.lists(numbers, min_size=2, max_size=8).filter(lambda values: max(values) - min(values) > 0.01)
probabilities = st.lists(st.floats(0, 1), max_size=8)


def test_interval() -> None:
    # mean 3, standard deviation √2.5, t(0.975, 4) = 2.776445 from a printed table
    half = 2.776445 * (2.5 / 5) ** 0.5
    assert stats.interval([1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx((3.0, 3 - half, 3 + half), abs=1e-6)


@given(samples)
def test_interval_against_scipy(values: list[float]) -> None:
    test = scipy_stats.ttest_1samp(values, 0.0)
    mean, low, high = stats.interval(values)
    assert (low, high) == pytest.approx(tuple(test.confidence_interval(0.95)))
    assert mean == pytest.approx(np.mean(values))
    assert stats.p_value(values, 0.0) == pytest.approx(float(test.pvalue))


@pytest.mark.parametrize("values", [[2.0], [0.5, 0.5, 0.5], [0.1 + 0.2, 0.3]])
def test_no_interval(values: list[float]) -> None:
    assert stats.interval(values)[1:] == (None, None)
    assert stats.p_value(values, 0.0) is None


@given(samples, numbers)
def test_p_and_interval_agree(values: list[float], to: float) -> None:
    _, low, high = stats.interval(values)
    p = stats.p_value(values, to)
    assert low is not None
    assert high is not None
    assert p is not None
    if min(abs(low - to), abs(high - to)) > 1e-6:
        assert (p < stats.LEVEL) == (not low <= to <= high)


def test_holm() -> None:
    # sorted 0.005, 0.01, 0.03, 0.04: × 4 = 0.02, × 3 = 0.03, × 2 = 0.06, × 1 = 0.04, which is lifted to 0.06
    assert stats.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert stats.holm([0.6, 0.7]) == [1.0, 1.0]
    assert stats.holm([]) == []


@given(probabilities)
def test_holm_bounds(raw: list[float]) -> None:
    adjusted = stats.holm(raw)
    for p, lifted in zip(raw, adjusted, strict=True):
        assert p <= lifted <= min(1.0, len(raw) * p)
    assert [adjusted[i] for i in np.argsort(raw)] == sorted(adjusted)


@given(probabilities.filter(len), st.randoms())
def test_holm_in_any_order(raw: list[float], random) -> None:  # type: ignore[no-untyped-def]
    order = list(range(len(raw)))
    random.shuffle(order)
    assert stats.holm([raw[i] for i in order]) == pytest.approx([stats.holm(raw)[i] for i in order])


def test_bootstrap_coverage() -> None:
    """300 test sets of 200 images, on which one network is right more often by 5 points."""
    draw = np.random.default_rng(1)
    covered = 0
    for _ in range(300):
        differences = 100.0 * draw.choice([-1, 0, 1], size=200, p=[0.1, 0.75, 0.15])
        _, low, high = stats.bootstrap(differences, resamples=400)
        covered += low <= 5.0 <= high  # type: ignore[operator]
    assert 0.91 <= covered / 300 <= 0.98


def test_bootstrap_against_normal() -> None:
    differences = [100.0] * 300 + [0.0] * 700  # standard error √(0.3 · 0.7 / 1000) = 1.449 points
    mean, low, high = stats.bootstrap(differences, resamples=4000)
    assert mean == pytest.approx(30)
    assert (low, high) == pytest.approx((30 - 1.96 * 1.449, 30 + 1.96 * 1.449), abs=0.25)
    assert stats.bootstrap(differences) == stats.bootstrap(differences)  # the same every time
    assert stats.bootstrap([0.0, 0.0, 0.0]) == (0.0, None, None)


def test_half_width() -> None:
    mean, half = stats.mean_and_half_width([1.0, 2.0, 3.0])
    assert mean == 2.0
    assert half == pytest.approx(4.302653 / 3**0.5)  # t(0.975, 2) from a printed table, standard deviation 1
    assert stats.mean_and_half_width([7.0]) == (7.0, None)
    with pytest.raises(ValueError, match="no values"):
        stats.mean_and_half_width([])
