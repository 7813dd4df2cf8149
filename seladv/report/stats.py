"""How far a mean can be trusted: one additive model over arms and seeds, and the interval over seeds and images."""

from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.formula.api import ols

LEVEL = 0.05  # of every test; 1 - LEVEL is every interval's confidence
SAME = 1e-9  # values this near to each other are one value, seen through rounding


class Contrast(NamedTuple):
    """A mean difference, its 95 % interval, the two-sided p of its bound, and the residual's degrees of freedom."""

    mean: float
    low: float | None = None
    high: float | None = None
    p: float | None = None
    df: int = 0


def mean_and_half_width(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean of one value per seed, and the half-width of its 95 % Student-t interval; None of one seed.

    Raises:
        ValueError: no values.
    """
    if not values:
        raise ValueError("no values to take the mean of")
    count = len(values)
    if count < 2:
        return float(values[0]), None
    return mean(values), float(stats.t.ppf(1 - LEVEL / 2, count - 1)) * stdev(values) / count**0.5


def contrast(values: Mapping[str, Sequence[float]], arm: str, other: str, bound: float = 0.0) -> Contrast:
    """`arm` less `other` by the additive model y = arm + seed, with the residual pooled over all arms in `values`.

    With these two arms alone it is the paired t test over the seeds. One seed has no interval, and neither have values
    that the model fits exactly: accuracies come in steps of one image, and no residual is no certainty.

    Args:
        values: each arm's value for every seed, in the same order of seeds.
        arm: the arm of interest.
        other: the arm that it is compared with.
        bound: the difference whose p is wanted; it is below 0.05 exactly where `bound` is outside the interval.
    """
    difference = mean(values[arm]) - mean(values[other])
    if len(values[arm]) < 2:
        return Contrast(difference)
    frame = pd.DataFrame(values).rename_axis("seed").reset_index().melt("seed", var_name="arm", value_name="y")
    fit = ols("y ~ 0 + C(arm) + C(seed)", frame).fit()
    if fit.mse_resid < SAME**2:
        return Contrast(difference)
    test = fit.t_test(f"C(arm)[{arm}] - C(arm)[{other}] = {bound}")
    low, high = test.conf_int(LEVEL)[0].tolist()
    return Contrast(difference, low, high, float(test.pvalue), int(fit.df_resid))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p values, in the order given: reject those below 0.05 and the family's error stays below 0.05."""
    p, n = np.asarray(p_values, dtype=float), len(p_values)
    order, adjusted = p.argsort(kind="stable"), np.empty(n)
    # statsmodels' multipletests is the same, and collects garbage at every call: seconds in a large process.
    adjusted[order] = np.maximum.accumulate((n - np.arange(n)) * p[order]).clip(max=1)
    return adjusted.tolist()


def crossed(differences: np.ndarray) -> tuple[float, float] | None:
    """95 % interval of the mean over seeds and images crossed: other seeds and another test set of this size.

    Two-way random effects: the variance of the mean is (MS_seed + MS_image − MS_residual) / SN, its degrees of freedom
    Satterthwaite's. None with fewer than two seeds or images, or where the variance is estimated as none.

    Args:
        differences: [S, N], of each seed and image, in the unit of the mean.
    """
    seeds, images = differences.shape
    if min(seeds, images) < 2:
        return None
    centre = differences.mean()
    of_seeds, of_images = differences.mean(axis=1, keepdims=True), differences.mean(axis=0, keepdims=True)
    residual = differences - of_seeds - of_images + centre
    degrees = np.array([seeds - 1, images - 1, (seeds - 1) * (images - 1)])
    sums = (images * ((of_seeds - centre) ** 2).sum(), seeds * ((of_images - centre) ** 2).sum(), (residual**2).sum())
    squares = np.array(sums) / degrees  # mean squares of seeds, images and residual
    variance = squares @ [1, 1, -1]
    if variance < SAME:
        return None
    half = stats.t.ppf(1 - LEVEL / 2, variance**2 / (squares**2 / degrees).sum()) * (variance / (seeds * images)) ** 0.5
    return float(centre - half), float(centre + half)
