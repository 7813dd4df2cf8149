"""The figures that the study sets itself, computed from the rounds, each beside its target."""

from typing import Any

from benchmarks import epochs, peers
from benchmarks.contest import LIMITS, Contest
from benchmarks.matching import Matching
from benchmarks.scoring import EXACT, OPACUS, PASSES, VMAP
from benchmarks.settings import MATCHING_BATCH
from benchmarks.timing import Spread, Times, ratio, spread

SELADV_FP32 = 1.3
LIMIT = 1.08
SCORING = {"margin": 1.05, "gradmatch-last": 1.15}
MATCHING = {"passes": 2.2, "vmap": 4.0, "opacus": 1.5, "opacus memory": 4.0, "memory": 1.3, "slope": 1.0}
COUNTED = 0.05
LOOP = 1.03
START = 1.0

Figure = dict[str, Any]


def figure(name: str, value: Spread | None, *, low: float = 0.0, high: float = float("inf"), hot: str | None) -> Figure:
    """One line of the table of targets; the median decides. `hot` names what to profile if it is missed."""
    bounds = [f"≥ {low:g}"] * (low > 0) + [f"≤ {high:g}"] * (high < float("inf"))
    met = None if value is None else low <= value.median <= high
    return {
        "figure": name, "target": " and ".join(bounds), "value": value and value._asdict(), "met": met, "hot": hot,
    }  # fmt: skip


def of_contest(contest: Contest, times: Times) -> list[Figure]:
    """How the attack and the scoring of one network and batch stand to the others."""
    where, targets = contest.where, contest.case.targets
    limit, peer = (
        min((name for name in names if name in times), key=lambda name: spread(times[name]).median, default=None)
        for names in (LIMITS, peers.NAMES)
    )
    assert limit is not None
    against_peer = ratio(times[peer], times["seladv"]) if peer else None

    def hot(name: str) -> str:
        return f"{where}: {name}"

    return [
        figure(f"{where}: textbook / seladv", ratio(times["textbook"], times["seladv"]), low=targets["textbook"],
               hot=hot("seladv")),
        figure(f"{where}: faster peer ({peer or 'none here'}) / seladv", against_peer, low=targets["peer"],
               hot=hot("seladv")),
        figure(f"{where}: textbook / seladv in fp32", ratio(times["textbook"], times["seladv fp32"]), low=SELADV_FP32,
               hot=hot("seladv fp32")),
        figure(f"{where}: seladv / {limit}", ratio(times["seladv"], times[limit]), high=LIMIT, hot=hot("seladv")),
        *(figure(f"{where}: {name} / forward pass", ratio(times[name], times["forward"]), high=high, hot=hot(name))
          for name, high in SCORING.items()),
    ]  # fmt: skip


def of_matching(found: Matching) -> list[Figure]:
    """What exact gradient matching costs beside the passes that it needs, and beside other ways to it."""

    def time(above: str, below: str, **bound: float) -> Figure:
        value = ratio(found.times[above], found.times[below]) if above in found.times else None
        slow = below if "low" in bound else above
        return figure(f"{found.where}: {above} / {below}", value, **bound, hot=f"{found.where}: {slow}")

    def memory(above: str, below: str, **bound: float) -> Figure:
        both = [found.peaks[name][MATCHING_BATCH] for name in (above, below) if name in found.peaks]
        value = spread([both[0] / both[1]]) if len(both) == 2 else None
        return figure(f"{found.where}: peak memory, {above} / {below}", value, **bound, hot=None)

    slopes = {name: line["slope"] for name, line in found.growth().items()}
    network = found.where.partition(",")[0]
    trained = [name.removeprefix(EXACT) for name in found.times if name.startswith(f"{EXACT},")]
    return [
        *(time(EXACT + end, PASSES + end, high=MATCHING["passes"]) for end in ("", *trained)),
        time(VMAP, EXACT, low=MATCHING["vmap"]),
        time(OPACUS, EXACT, low=MATCHING["opacus"]),
        memory(OPACUS, EXACT, low=MATCHING["opacus memory"]),
        memory(EXACT, PASSES, high=MATCHING["memory"]),
        figure(f"{network}: growth of peak memory with the batch, {EXACT} / {PASSES}",
               spread([slopes[EXACT] / slopes[PASSES]]), high=MATCHING["slope"], hot=None),
    ]  # fmt: skip


def of_precisions(measured: list[dict[str, Any]]) -> list[Figure]:
    """How far bf16 moves the accuracies of a run, over the spread of its seeds: at most, of all arms and seeds."""
    return [
        figure(f"{one['protocol']}: bf16 moves {kind} accuracy / spread of seeds", spread(shares), high=1.0, hot=None)
        for one in measured
        for kind in ("clean", "robust")
        if (shares := [r["most"] / r["spread"] for r in one["rows"] if r["kind"] == kind and r["spread"]])
    ]


def of_epochs(spent: dict[str, list[dict[str, Any]]]) -> list[Figure]:
    """Whether time follows the counted passes, and what the loop costs besides its phases."""
    half, full = spent["margin-50"], spent["full"]
    seconds = {arm: [line["epoch_seconds"] for line in spent[arm]] for arm in ("margin-50", "full")}
    measured, counted = ratio(seconds["margin-50"], seconds["full"]), epochs.passes(half[0]) / epochs.passes(full[0])
    loops = {arm: [line["epoch_seconds"] / epochs.phases(line) for line in spent[arm]] for arm in seconds}
    return [
        figure("epoch of margin-50 / full, over the ratio of passes", Spread(*(v / counted for v in measured)),
               low=1 - COUNTED, high=1 + COUNTED, hot="epoch: margin-50"),
        *(figure(f"training loop of {arm} / its phases", spread(values), high=LOOP, hot=f"epoch: {arm}")
          for arm, values in loops.items()),
    ]  # fmt: skip


def of_startup(starts: Times) -> list[Figure]:
    """Whether a stage of the demo costs more than its work."""
    return [figure("start-up of a stage / a digits training run", ratio(starts["warm"], starts["training"]),
                   high=START, hot=None)]  # fmt: skip
