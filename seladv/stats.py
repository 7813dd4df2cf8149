"""Means over seeds, and how far they can be trusted."""

from collections.abc import Sequence
from statistics import mean, stdev

from scipy.stats import t


def mean_and_half_width(values: Sequence[float], *, confidence: float = 0.95) -> tuple[float, float | None]:
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
    quantile = float(t.ppf((1 + confidence) / 2, count - 1))
    return mean(values), quantile * stdev(values) / count**0.5
