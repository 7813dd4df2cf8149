"""How far a mean can be trusted: intervals and tests over seeds, the price of many tests, bootstrap over examples."""

from collections.abc import Sequence
from statistics import mean, stdev
from typing import NamedTuple

import numpy as np
from scipy import stats

LEVEL = 0.05  # of every test; 1 - LEVEL is every interval's confidence
SAME = 1e-9  # values this near to each other are one value, seen through rounding


class Interval(NamedTuple):
    """A mean and the ends of its interval; no ends where the values give none."""

    mean: float
    low: float | None
    high: float | None


def mean_and_half_width(values: Sequence[float], *, confidence: float = 1 - LEVEL) -> tuple[float, float | None]:
    """The mean of one value per seed, and the half-width of its Student-t interval.

    For paired seeds, hand in the differences. One seed has no interval: the half-width is None.

    Raises:
        ValueError: no values.
    """
    if not values:
        raise ValueError("no values to take the mean of")
    count = len(values)
    if count < 2:
        return float(values[0]), None
    quantile = float(stats.t.ppf((1 + confidence) / 2, count - 1))
    return mean(values), quantile * stdev(values) / count**0.5


def interval(values: Sequence[float]) -> Interval:
    """The mean of one value per seed with its 95 % Student-t interval.

    There is none for one value, and none for values that agree exactly: accuracies come in steps of one example, and
    a spread of zero would turn that coincidence into certainty.
    """
    centre, half = mean_and_half_width(values)
    if half is None or max(values) - min(values) < SAME:
        return Interval(centre, None, None)
    return Interval(centre, centre - half, centre + half)


def p_value(values: Sequence[float], bound: float) -> float | None:
    """Two-sided p of Student's one-sample test that the mean is `bound`; None where `interval` has no ends.

    It is below 0.05 exactly where `bound` is outside the 95 % interval.
    """
    if interval(values).low is None:
        return None
    return float(stats.ttest_1samp(values, bound).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p values, in the order given: reject those below 0.05 and the family's error stays below 0.05.

    Source: Holm, "A simple sequentially rejective multiple test procedure", 1979.
    """
    count, least = len(p_values), 0.0
    adjusted = [0.0] * count
    for rank, index in enumerate(sorted(range(count), key=p_values.__getitem__)):
        least = max(least, min(1.0, (count - rank) * p_values[index]))  # never below a smaller p's
        adjusted[index] = least
    return adjusted


def bootstrap(differences: Sequence[float], *, resamples: int = 2000, seed: int = 0) -> Interval:
    """The mean of one difference per test example with its 95 % percentile interval over the examples.

    It says how the same networks would differ on another test set of this size; it knows nothing of other seeds.
    """
    values = np.asarray(differences, dtype=float)
    if len(values) < 2 or np.ptp(values) < SAME:
        return Interval(float(values.mean()), None, None)
    drawn = stats.bootstrap(
        (values,), np.mean, n_resamples=resamples, batch=100, confidence_level=1 - LEVEL, method="percentile",
        rng=np.random.default_rng(seed),
    )  # fmt: skip
    return Interval(float(values.mean()), *map(float, drawn.confidence_interval))
