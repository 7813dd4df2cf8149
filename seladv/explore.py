"""What one sees when exploring a trained network: its choices in a batch, PGD's path, and its habits of choosing."""

from math import comb
from typing import NamedTuple

import torch
from torch import Tensor, nn

from seladv import arms
from seladv.attack import pgd
from seladv.explore_networks import Subject
from seladv.modes import eval_mode
from seladv.seeds import stream
from seladv.selection import CRITERIA


class Choice(NamedTuple):
    """A batch [B] of images [B, C, H, W] and classes, their scores [B], and which of them [B] the arm attacks."""

    x: Tensor
    y: Tensor
    scores: Tensor
    chosen: Tensor
    criterion: str  # whose scores these are


class Trajectory(NamedTuple):
    """One clean image [C, H, W] of class `label` under attack: images [T + 1, C, H, W] and logits [T + 1, classes]."""

    clean: Tensor
    images: Tensor
    logits: Tensor
    label: int

    @property
    def margins(self) -> Tensor:
        """The true class's logit minus the largest other one [T + 1]: below 0 the network is wrong."""
        others = self.logits.clone()
        others[:, self.label] = -torch.inf
        return self.logits[:, self.label] - others.amax(dim=1)

    @property
    def predictions(self) -> list[int]:
        """The class that the network sees in each of the images."""
        return self.logits.argmax(dim=1).tolist()


def batches(subject: Subject) -> tuple[Tensor, ...]:
    """Indices [B] of the training images in each batch of the run's first epoch."""
    labels = subject.data["train"].labels
    order = torch.randperm(len(labels), generator=stream(subject.run.seed, "order"))
    return order.to(labels.device).split(subject.study.batch_size)


def choose(subject: Subject, index: Tensor, *, generator: torch.Generator | None = None) -> Choice:
    """What the arm would attack of the training images at `index` [B], scored by its network in eval mode.

    Arms that attack nothing or everything have no criterion: the margin is shown. An arm with `-stale` is scored anew;
    what its samples' last visits had left behind is gone with its training. `generator` is for arms that draw.
    """
    x, y = subject.data["train"].batch(index)
    arm = arms.parse(subject.run.arm)
    criterion = arm.criterion or "margin"
    generator = generator or stream(subject.run.seed, "selection", x.device)
    with eval_mode(subject.model), torch.no_grad():
        scores = CRITERIA[criterion].score(subject.model, x, y, generator).float()
    chosen = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    chosen[scores.topk(arm.count(len(x))).indices] = True
    return Choice(x.cpu(), y.cpu(), scores.cpu(), chosen.cpu(), criterion)


def trajectory(
    model: nn.Module, x: Tensor, y: Tensor, *, eps: float, step_size: float, steps: int, generator: torch.Generator
) -> Trajectory:
    """What `attack.pgd` makes of one image [1, C, H, W] of class `y` [1] at its random start and after each step.

    The network is listened to while `pgd` runs: nothing of the attack is written twice.
    """
    seen: list[tuple[Tensor, Tensor]] = []
    handle = model.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0].detach(), output.detach())))
    try:
        x_adv = pgd(model, x, y, eps=eps, step_size=step_size, steps=steps, generator=generator)
        with eval_mode(model), torch.no_grad():
            model(x_adv)
    finally:
        handle.remove()
    images, logits = (torch.cat(parts).float().cpu() for parts in zip(*seen, strict=True))
    return Trajectory(x[0].cpu(), images, logits, int(y))


def times_chosen(subject: Subject, *, images: int, epochs: int) -> Tensor:
    """How often the arm would choose each of the first `images` training images [N] in `epochs` of shuffled batches.

    The network stays as it is: these are the habits of the finished one, not a record of its training.
    """
    labels = subject.data["train"].labels
    times = torch.zeros(min(images, len(labels)), dtype=torch.int64)
    order, draws = stream(subject.run.seed, "explore"), stream(subject.run.seed, "selection", labels.device)
    for _ in range(epochs):
        for index in torch.randperm(len(times), generator=order).split(subject.study.batch_size):
            times[index] += choose(subject, index.to(labels.device), generator=draws).chosen
    return times


def by_chance(*, share: float, epochs: int) -> list[float]:
    """The share of images that random selection would choose 0, 1, …, `epochs` times: binomial."""
    return [comb(epochs, n) * share**n * (1 - share) ** (epochs - n) for n in range(epochs + 1)]
