"""Is the attack to be trusted? The checks of Carlini et al. 2019 ("On Evaluating Adversarial Robustness"), computed.

A robust accuracy is an upper bound: it tells what an attack did not break, not what cannot be broken. These checks fail
where gradients mislead the attack and the bound says little. No setting leaves one out.
"""

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from seladv.attack import eval_mode, input_gradient
from seladv.data.images import Images, stream
from seladv.evaluation.attacks import pgd_attack
from seladv.evaluation.curves import Curve
from seladv.evaluation.outcomes import worst_case
from seladv.study.protocol import Protocol
from seladv.training.monitor import percent

Check = dict[str, Any]  # check, passed, figures, reading

JUMP = 15.0  # points: far above an epoch's noise in a gap, far below the collapse itself, which is 30 and more
RECENT = 3  # epochs: a collapse takes one or two; robust overfitting, which is another thing, takes dozens
ROUNDING = 1e-6  # of x + eps in float32, where values are at most 1


def slack(n: int) -> int:
    """By how many of `n` images two accuracies may differ and still count as equal.

    Less than half a point, but one image in any case. The attacks compared meet the same images, so the error of
    drawing images cancels; what is left is the luck of a random start with the few images near the edge.
    """
    return max(1, ceil(0.005 * n) - 1)


def check(name: str, passed: bool, figures: dict[str, Any], reading: str) -> Check:
    """One item of the list, as JSON can hold it."""
    return {"check": name, "passed": bool(passed), "figures": figures, "reading": reading}


def at_least_as_strong(name: str, strong: tuple[str, Tensor], weak: tuple[str, Tensor]) -> Check:
    """Of the images that both saw, `strong` (its name, its outcomes [N], bool) leaves no more right than `weak` [M]."""
    n = min(len(strong[1]), len(weak[1]))
    a, b = strong[1][:n], weak[1][:n]
    behind = int(a.sum() - b.sum())
    passed = behind <= slack(n)
    verb = "is no weaker than" if passed else f"is weaker, by {behind} of {n} images, than"
    figures = {strong[0]: percent(a), weak[0]: percent(b), "examples": n}
    return check(name, passed, figures, f"{strong[0]} {verb} {weak[0]}")


def steps_suffice(curve: Curve, *, steps: int, n: int) -> Check:
    """Twice the protocol's steps break hardly more: the attack has converged."""
    at = {int(count): robust for count, robust in curve}
    change = at[steps] - at[2 * steps]
    passed = abs(change) * n / 100 < slack(n) + 0.5  # accuracies are whole images; 0.5 absorbs their rounding
    reading = f"doubling the steps changes {change:.1f} points" + ("" if passed else ": the attack has not converged")
    return check("steps-suffice", passed, {"steps": at[steps], "doubled": at[2 * steps], "examples": n}, reading)


def large_eps_breaks(curve: Curve, *, n: int) -> Check:
    """With room enough every image can be made wrong; an attack that fails there fails for its own reasons."""
    eps, robust = curve[-1]
    passed = robust * n / 100 < slack(n) + 0.5
    reading = f"{robust:.1f} % are left at eps = {eps:.3g}" + ("" if passed else ": even a boundless attack fails")
    return check("large-eps-breaks", passed, {"eps": eps, "robust": robust, "examples": n}, reading)


def gradients_exist(model: nn.Module, data: Images) -> Check:
    """Hardly any image's loss has an all-zero gradient, which leaves a gradient attack where it started."""
    with eval_mode(model):
        flat = [input_gradient(model, x, y).flatten(1).abs().amax(dim=1) == 0 for x, y in data.batches(250)]
    zero = torch.cat(flat)
    passed = int(zero.sum()) <= slack(len(zero))
    reading = f"{percent(zero):.1f} % of the images have no input gradient"
    return check("gradients-exist", passed, {"zero": percent(zero), "examples": len(zero)}, reading)


def inputs_in_range(model: nn.Module, data: Images, protocol: Protocol, *, seed: int) -> Check:
    """The network takes images in [0, 1], so it normalises inside; the attack stays in there and within eps."""
    attack = pgd_attack(
        eps=protocol.eps,
        step_size=protocol.evaluate.step_size,
        steps=protocol.evaluate.steps,
        generator=stream(seed, "checklist", data.labels.device),
    )
    low, high, furthest = 1.0, 0.0, 0.0
    for x, y in data.batches(250):
        x_adv = attack(model, x, y)
        low = min(low, x.min().item(), x_adv.min().item())
        high = max(high, x.max().item(), x_adv.max().item())
        furthest = max(furthest, (x_adv - x).abs().max().item())
    passed = low >= 0 and high <= 1 and furthest <= protocol.eps + ROUNDING
    where = f"images and adversarial examples lie in [{low:.3g}, {high:.3g}], at most {furthest:.3g} apart"
    figures = {"lowest": low, "highest": high, "distance": furthest, "eps": protocol.eps, "examples": len(data.labels)}
    return check("inputs-in-range", passed, figures, where)


def deterministic(model: nn.Module, data: Images) -> Check:
    """Two passes in eval mode give the same logits: nothing random that an attack would have to average out."""
    with torch.no_grad(), eval_mode(model):
        passes = [torch.cat([model(x) for x, _ in data.batches(250)]) for _ in range(2)]
    difference = (passes[0] - passes[1]).abs().max().item()
    reading = "two passes give " + ("identical logits" if difference == 0 else f"logits {difference:.2g} apart")
    figures = {"difference": difference, "examples": len(data.labels)}
    return check("deterministic", torch.equal(*passes), figures, reading)


def run(
    model: nn.Module,
    test: Images,
    protocol: Protocol,
    *,
    seed: int,
    hits: Mapping[str, Tensor],
    curves: Mapping[str, Curve],
) -> list[Check]:
    """The whole list but `white-box-beats-transfer`, which needs other networks (`evaluation.transfer`).

    Args:
        model, test, protocol, seed: as for `evaluation.evaluate.evaluate`.
        hits: outcomes [N_attack] of `pgd`, `pgd-strong`, `square`, `fgsm` and `noise`.
        curves: robust accuracy against `eps` and `steps`.
    """
    settings = protocol.evaluate
    few = Images(*(part[: settings.curves] for part in test))
    white_box = ("white-box", worst_case([hits["pgd"], hits["pgd-strong"]]))
    return [
        at_least_as_strong("iterative-beats-single-step", ("pgd", hits["pgd"]), ("fgsm", hits["fgsm"])),
        at_least_as_strong("white-box-beats-gradient-free", white_box, ("square", hits["square"])),
        at_least_as_strong("white-box-beats-noise", ("pgd", hits["pgd"]), ("noise", hits["noise"])),
        steps_suffice(curves["steps"], steps=settings.steps, n=settings.curves),
        large_eps_breaks(curves["eps"], n=settings.curves),
        gradients_exist(model, Images(*(part[: settings.examples] for part in test))),
        inputs_in_range(model, few, protocol, seed=seed),
        deterministic(model, few),
    ]


class Overfitting(NamedTuple):
    """Whether it happened and in which epoch it began; the widest gap, points, of the epochs that measured one."""

    happened: bool
    epoch: int | None
    widest_gap: float | None


def detect(history: Sequence[Mapping[str, Any]], *, jump: float = JUMP) -> Overfitting:
    """Find the epoch where the gap between FGSM and PGD accuracy on the held-out images jumps (Wong et al. 2020).

    It jumps in the first epoch whose gap is more than `jump` points above the smallest of the `RECENT` epochs
    before it, while PGD accuracy is below the best of these: the gap of a young network may also grow because it
    gets better against one step first. A jump that training recovers from later is still one.

    Args:
        history: a line for every epoch with `epoch`, `heldout_robust` (PGD) and `heldout_fgsm`, percent, of an arm
            that attacks. Lines without `heldout_fgsm` are passed over; without any, nothing is found and
            `widest_gap` is None.
        jump: points.
    """
    measured = [line for line in history if line.get("heldout_fgsm") is not None]
    gaps = [line["heldout_fgsm"] - line["heldout_robust"] for line in measured]
    for now in range(1, len(measured)):
        recent = range(max(0, now - RECENT), now)
        widened = gaps[now] - min(gaps[before] for before in recent) > jump
        broken = measured[now]["heldout_robust"] < max(measured[before]["heldout_robust"] for before in recent)
        if widened and broken:
            return Overfitting(True, measured[now]["epoch"], max(gaps))
    return Overfitting(False, None, max(gaps, default=None))
