"""Exact gradient matching beside other ways to the same cosines: time, peak memory, and how it grows with the batch."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks import epochs, memory, scoring, settings, timing
from benchmarks.scoring import EXACT, NAMES, OPACUS, PASSES
from seladv import precision

GROWING = (PASSES, EXACT)  # whose memory is measured against the batch size
HEAVY = (OPACUS,)  # whose memory is measured at the batch of the contest alone


class Matching(NamedTuple):
    """What was measured on one network; a way that is not installed is in none of the three."""

    where: str
    times: timing.Times  # way → seconds of a batch, a value for each round
    cosines: dict[str, Tensor]  # way → cosines [B]
    peaks: dict[str, dict[int, float]]  # way → batch size → MiB
    calls: dict[str, Callable[[], Tensor]]  # what was timed, by a name of its own among all contests

    def rows(self) -> list[dict[str, Any]]:
        """A row for every way, whether it could be measured or not."""
        return [self._row(name) for name in dict.fromkeys((*NAMES, *self.times))]

    def _row(self, name: str) -> dict[str, Any]:
        exact, own = self.cosines[EXACT], self.cosines.get(name)
        return {
            "where": self.where,
            "row": name,
            "seconds": timing.spread(self.times[name])._asdict() if name in self.times else None,
            "peak_mib": self.peaks.get(name, {}).get(settings.MATCHING_BATCH),
            "apart": None if own is None else (own - exact).abs().max().item(),
        }

    def growth(self) -> dict[str, dict[str, Any]]:
        """Peak memory against the batch size, and the straight line, of those that were measured so."""
        lines = {name: [(size, [mib]) for size, mib in self.peaks[name].items()] for name in GROWING}
        return {name: epochs.growth("batch size", points) for name, points in lines.items()}


def measure(case: settings.Case, *, device: torch.device, found: dict[str, Any]) -> Matching:
    """All ways in turns on one network and one batch of random images, in fp32, which all of them can.

    Exact matching and its unit are timed in the precision of training as well, where that is another.

    Args:
        case: the network.
        device: where to run.
        found: the peers' modules, see `peers.load`.
    """
    network, batch = case.name.partition(",")[0], settings.MATCHING_BATCH
    where = f"{network}, batch {batch}"
    model, x, y = scoring.sample(case, batch, device=device)
    calls = scoring.calls(model, x, y, number_format="fp32", found=found)
    if (trained := precision.resolve("auto", device)) != "fp32":
        ours = scoring.calls(model, x, y, number_format=trained, found={})
        calls |= {f"{name}, {trained}": ours[name] for name in GROWING}
    times, results = timing.interleave(calls, repetitions=case.matchings)
    cosines = {name: value.float().cpu() for name, value in results.items() if not name.startswith(PASSES)}
    sizes = {name: settings.MATCHING_MEMORY_SIZES for name in GROWING} | {name: (batch,) for name in HEAVY}
    peaks = {
        name: {size: memory.measure("scoring", name, case.name, size, device) for size in sizes[name]}
        for name in sizes
        if name in calls
    }
    return Matching(where, times, cosines, peaks, {f"{where}: {name}": call for name, call in calls.items()})
