"""What `dvc metrics`, `dvc plots` and `dvc exp show` read: one protocol's table and its training curves, made small.

A run's own metrics file holds hundreds of values; side by side, nobody could compare two commits by them.
"""

import pandas as pd

from seladv.results import Metrics

FIGURES = ("clean", "robust", "total_cost")
CURVES = ("epoch", "loss", "heldout_clean", "heldout_robust")


def summary(table: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Arm → the figures of `results.table` that a change is judged by; those that are empty are left out.

    Accuracies in percent, costs as ratios to `full`, all rounded to the three decimals of the CSV.
    """
    rows = table.set_index("arm")[list(FIGURES)]
    found: dict[str, dict[str, float]] = {}
    for arm, row in rows.iterrows():
        found[str(arm)] = {str(name): round(float(value), 3) for name, value in row.dropna().items()}
    return found


def curves(metrics: Metrics) -> pd.DataFrame:
    """A row for every arm, seed and epoch: the training loss, and accuracies on held-out images in percent."""
    rows = [
        {"arm": arm, "seed": run["seed"], **{name: line[name] for name in CURVES}}
        for arm, runs in metrics.items()
        for run in runs
        for line in run["training"]["history"]
    ]
    return pd.DataFrame(rows)
