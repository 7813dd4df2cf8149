"""Whatever another loop passes in: it works as it is meant, or ends in one line that says what to do."""

import copy
import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import random_network
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.functional import cross_entropy

from seladv.attack import eval_mode, pgd
from seladv.selection import SELECTORS, select

ATTACK: dict[str, Any] = {"eps": 8 / 255, "step_size": 2 / 255, "steps": 3}
Use = Callable[..., Tensor]


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def attack(model: Any, x: Any, y: Any) -> Tensor:
    return pgd(model, x, y, **ATTACK, generator=seeded())


def choice(name: str) -> Use:
    return lambda model, x, y: SELECTORS[name](model, x, y, 3, generator=seeded())


USES: dict[str, Use] = {"pgd": attack, **{name: choice(name) for name in SELECTORS}}
RUNNING = {name: use for name, use in USES.items() if name != "random"}  # random does not run the network
uses = pytest.mark.parametrize("use", USES.values(), ids=USES)
running = pytest.mark.parametrize("use", RUNNING.values(), ids=RUNNING)

X, Y = torch.rand(6, 1, 8, 8, generator=seeded()), torch.arange(6)


def refused(use: Use, message: str, *args: Any, **options: Any) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        use(*args, **options)
    assert "\n" not in str(caught.value)


# ---- labels


@uses
@pytest.mark.parametrize(
    "labels",
    [Y.int(), Y.short(), Y.to(torch.uint8), Y[:, None], Y[:, None].int(), Y.repeat_interleave(2)[::2]],
    ids=["int32", "int16", "uint8", "column", "int32 column", "strided"],
)
def test_plain_labels(use: Use, labels: Tensor) -> None:
    assert torch.equal(use(random_network(), X, labels), use(random_network(), X, Y))


LABELS = {
    "float": (Y.float(), r"float32 \[6\].* y\.long\(\)"),
    "float column": (Y[:, None].float(), r"float32 \[6, 1\].* y\.long\(\)"),
    "half": (Y.half(), r"float16 \[6\]"),
    "bool": (Y > 2, r"bool \[6\]"),
    "soft": (torch.full((6, 10), 0.1), r"float32 \[6, 10\].* y\.argmax\(dim=1\)"),
    "one-hot": (F.one_hot(Y, 10), r"int64 \[6, 10\].* y\.argmax\(dim=1\)"),
    "row": (Y[None], r"int64 \[1, 6\]"),
    "three axes": (Y[:, None, None], r"int64 \[6, 1, 1\]"),
    "one": (Y[0], r"int64 \[\].*x\[None\]"),
    "list": (Y.tolist(), r"of type list.*torch\.as_tensor"),
    "numpy": (Y.numpy(), r"of type ndarray.*torch\.as_tensor"),
    "elsewhere": (Y.to("meta"), r"on meta, the images on cpu"),
    "too few": (Y[:4], r"^cannot (attack|select from) 6 samples with 4 classes: give a class for each sample"),
}


@uses
@pytest.mark.parametrize(("labels", "message"), LABELS.values(), ids=LABELS)
def test_other_labels_are_refused(use: Use, labels: Any, message: str) -> None:
    refused(use, message, random_network(), X, labels)


@running
@pytest.mark.parametrize(("shift", "label"), [(5, 10), (-1, -1), (-100, -100), (1000, 1005)])
def test_labels_beyond_the_classes_are_refused(use: Use, shift: int, label: int) -> None:
    refused(use, rf"label {label} is no class: the network has 10, from 0 to 9$", random_network(), X, Y + shift)


# ---- images

IMAGES = {
    "uint8": ((X * 255).to(torch.uint8), r"uint8 \[6, 1, 8, 8\].*x\.float\(\) / 255"),
    "binary": (X.round().to(torch.uint8), r"uint8"),
    "bool": (X > 0.5, r"bool.*: x\.float\(\)$"),
    "int64": ((X * 255).long(), r"int64"),
    "complex": (X.to(torch.complex64), r"complex64"),
    "float8": (X.to(torch.float8_e4m3fn), r"float8"),
    "list": ([*X], r"of type list.*torch\.stack"),
    "numpy": (X.numpy(), r"of type ndarray"),
    "sparse": (X.to_sparse(), r"sparse"),
    "one value each": (X[:, 0, 0, 0], r"float32 \[6\].*x\[None\]"),
}


@uses
@pytest.mark.parametrize(("images", "message"), IMAGES.values(), ids=IMAGES)
def test_other_images_are_refused(use: Use, images: Any, message: str) -> None:
    refused(use, message, random_network(), images, Y)


@uses
def test_one_image_without_a_batch(use: Use) -> None:
    refused(use, r"x\[None\]", random_network(), X[0], Y[0])
    refused(use, r"x\[None\]", random_network(), torch.rand(3, 8, 8), Y[:1])


@pytest.mark.parametrize("beyond", [1.2e-7, 2.98e-8, 9e-7])
def test_rounding_is_clamped(beyond: float) -> None:
    for x in (torch.ones(2, 1, 8, 8) + beyond, torch.zeros(2, 1, 8, 8) - beyond):
        x_adv = pgd(random_network(), x, Y[:2], **ATTACK)
        assert 0 <= x_adv.min() <= x_adv.max() <= 1
        assert (x_adv - x).abs().max() <= ATTACK["eps"] + 1e-6


@pytest.mark.parametrize(
    ("x", "shown"), [(torch.ones_like(X) + 2e-6, r"1\.0000"), ((X - 0.5) / 0.2, "-2."), (X * 255, "25")]
)
def test_other_ranges_are_refused(x: Tensor, shown: str) -> None:
    refused(attack, rf"^pgd: images must lie in \[0, 1\], found \[.*{shown}.*normalise inside", random_network(), x, Y)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("eps", [0.003, 8 / 255, 0.3])
def test_other_precisions_stay_in_the_ball(dtype: torch.dtype, norm: str, eps: float) -> None:
    model, x = random_network().to(dtype), X.to(dtype)
    x_adv = pgd(model, x, Y, eps=eps, norm=norm, steps=4, generator=seeded())
    moved = (x_adv.double() - x.double()).flatten(1)
    assert x_adv.dtype == dtype
    assert (moved.norm(dim=1) if norm == "l2" else moved.abs()).max() <= eps + 1e-7
    assert 0 <= x_adv.min() <= x_adv.max() <= 1
    assert moved.any()


# ---- settings

SETTINGS = {
    "8/255 as text": ({"eps": "8/255"}, r"eps='8/255' is text; write a number, such as eps=8 / 255"),
    "text step": ({"step_size": "0.1"}, r"step_size='0\.1' is text"),
    "text start": ({"start": "0"}, r"start='0' is text"),
    "0 to 255": ({"eps": 8}, r"eps=8: images lie in \[0, 1\]; write 8/255"),
    "just above 1": ({"eps": 1.5}, r"eps=1\.5: images lie in \[0, 1\]"),
    "start": ({"start": 8}, r"start=8: images lie in \[0, 1\]"),
    "l2, 0 to 255": ({"norm": "l2", "eps": 128}, r"eps=128: images lie in \[0, 1\]; write 128/255"),
    "for each sample": ({"eps": torch.rand(6)}, r"eps is float32 \[6\]; one number for the whole batch"),
    "list": ({"eps": [0.1]}, r"eps is of type list"),
    "bool": ({"eps": True}, r"eps is of type bool"),
    "NaN": ({"eps": float("nan")}, r"eps=nan; a finite number"),
    "infinite step": ({"step_size": float("inf")}, r"step_size=inf; a finite number"),
    "float steps": ({"steps": 10.0}, r"steps=10\.0: an integer is needed"),
    "text steps": ({"steps": "10"}, r"steps='10': an integer"),
    "no steps": ({"steps": None}, r"steps=None: an integer"),
    "seed": ({"generator": 0}, r"generator is of type int; give torch\.Generator"),
    "class": ({"generator": torch.Generator}, r"the generator is of type"),
    "norm": ({"norm": "L2"}, r"norm='L2'; choose one of linf, l2"),
    "numeric norm": ({"norm": 2}, r"norm=2; choose one of linf, l2"),
    "list norm": ({"norm": ["l2"]}, r"norm=\['l2'\]; choose one"),
    "target classes": ({"targeted": Y}, r"targeted is int64 \[6\]; give True"),
    "name of a loss": ({"loss": "trades"}, r"the loss is of type str; give a function"),
    "mean loss": ({"loss": nn.CrossEntropyLoss()}, r"the loss is float32 \[\]; give one value for each image \[6\]"),
    "loss [B, classes]": ({"loss": lambda logits, y: logits}, r"the loss is float32 \[6, 10\]; give one value"),
    "constant loss": ({"loss": lambda logits, y: y.float()}, r"made of the logits"),
    "detached loss": ({"loss": lambda logits, y: logits.detach().sum(dim=1)}, r"made of the logits"),
    "two ways": ({"ascend": lambda *_, **__: X, "norm": "l2"}, r"ascend= takes the default attack's steps"),
}


@pytest.mark.parametrize(("settings", "message"), SETTINGS.values(), ids=SETTINGS)
def test_other_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    refused(pgd, f"^pgd: .*{message}", random_network(), X, Y, **ATTACK | settings)


@pytest.mark.parametrize("kind", [np.float32, np.float64, torch.tensor, lambda value: torch.tensor([value])])
def test_numbers_of_other_libraries(kind: Callable[[float], Any]) -> None:
    settings = {"eps": kind(0.125), "step_size": kind(0.03125), "start": kind(0.0), "steps": np.int64(3)}
    expected = pgd(random_network(), X, Y, eps=0.125, step_size=0.03125, start=0, steps=3)
    assert torch.equal(pgd(random_network(), X, Y, **settings), expected)


@pytest.mark.parametrize("k", [np.int32(3), np.int64(3), torch.tensor(3), torch.tensor([3])])
def test_integers_of_other_libraries(k: Any) -> None:
    assert torch.equal(select(random_network(), X, Y, k), select(random_network(), X, Y, 3))


@pytest.mark.parametrize("name", SELECTORS)
@pytest.mark.parametrize("k", [3.0, np.float64(3), torch.tensor(3.0), "3", None, True, torch.tensor([1, 2])])
def test_other_counts_are_refused(name: str, k: Any) -> None:
    refused(
        SELECTORS[name], r"^select: k=.*: an integer is needed, such as 10 or len\(x\) // 2$", nn.Flatten(), X, Y, k
    )


@pytest.mark.parametrize("name", SELECTORS)
def test_empty_batch(name: str) -> None:
    assert SELECTORS[name](random_network(), X[:0], Y[:0], 0).tolist() == []
    refused(SELECTORS[name], "^cannot select 1 of 0 samples", random_network(), X[:0], Y[:0], 1)


# ---- networks


@uses
@pytest.mark.parametrize("model", [lambda x: x.flatten(1), nn.Linear, None, random_network().forward])
def test_what_is_no_module_is_refused(use: Use, model: Any) -> None:
    refused(use, r"the network is of type \w+; an nn\.Module", model, X, Y)


class Returns(nn.Module):
    """`result(logits, x)` of a network's logits and images."""

    def __init__(self, result: Callable[[Tensor, Tensor], Any]):
        super().__init__()
        self.network, self.result = random_network(), result

    def forward(self, x: Tensor) -> Any:
        return self.result(self.network(x), x)


PLAIN: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "tuple of one": lambda z, x: (z,),
    "tuple with features": lambda z, x: (z, x),
    "list": lambda z, x: [z, None],
    "dictionary": lambda z, x: {"logits": z, "loss": None},
    "object": lambda z, x: SimpleNamespace(logits=z),
}
NOT_PLAIN: dict[str, tuple[Callable[[Tensor, Tensor], Any], str]] = {
    "two logits": (lambda z, x: (z, z), "tuple, and more than one entry may be the logits"),
    "features first": (lambda z, x: (x, z), r"tuple with float32 \[6, 1, 8, 8\] in the place of logits"),
    "another key": (lambda z, x: {"out": z}, "of type dict;"),
    "nothing": (lambda z, x: None, "of type NoneType;"),
    "empty": (lambda z, x: (), "of type tuple;"),
    "numpy": (lambda z, x: z.detach().numpy(), "of type ndarray;"),
    "one logit": (lambda z, x: z[:, :1], r"float32 \[6, 1\]"),
    "flat": (lambda z, x: z[:, 0], r"float32 \[6\]"),
    "classes": (lambda z, x: z.argmax(dim=1), r"int64 \[6\]"),
    "a map": (lambda z, x: z[:, :, None, None], r"float32 \[6, 10, 1, 1\]"),
    "transposed": (lambda z, x: z.T, r"float32 \[10, 6\]"),
    "one row": (lambda z, x: z[:1], r"float32 \[1, 10\]"),
}


@uses
@pytest.mark.parametrize("result", PLAIN.values(), ids=PLAIN)
def test_plain_outputs(use: Use, result: Callable[[Tensor, Tensor], Any]) -> None:
    assert torch.equal(use(Returns(result), X, Y), use(Returns(lambda z, x: z), X, Y))


@running
@pytest.mark.parametrize(("result", "message"), NOT_PLAIN.values(), ids=NOT_PLAIN)
def test_other_outputs_are_refused(use: Use, result: Callable[[Tensor, Tensor], Any], message: str) -> None:
    fix = "a binary network needs two" if message in (r"float32 \[6, 1\]", r"float32 \[6\]") else "wrap it|a binary"
    message = rf"the network's output is .*{message}.*logits \[6, classes\] are needed: ({fix})"
    refused(use, message, Returns(result), X, Y)


def no_grad(x: Tensor) -> Tensor:
    with torch.no_grad():
        return 2 * x


CUT: dict[str, Callable[[Tensor], Tensor]] = {
    "detach": lambda x: x.detach(),
    "numpy": lambda x: torch.from_numpy(x.detach().numpy()),
    "no_grad": no_grad,
    "threshold": lambda x: (x > 0.5).float(),
    "constant": torch.zeros_like,
}


class Before(nn.Module):
    """A network behind `change`."""

    def __init__(self, change: Callable[[Tensor], Tensor]):
        super().__init__()
        self.change, self.network = change, random_network()

    def forward(self, x: Tensor) -> Tensor:
        return self.network(self.change(x))


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("change", CUT.values(), ids=CUT)
def test_cut_graphs_are_refused(change: Callable[[Tensor], Tensor], frozen: bool) -> None:
    model = Before(change).requires_grad_(not frozen)
    refused(attack, "^pgd: no gradient leads from the logits to the images; look for detach", model, X, Y)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_zero_gradients_are_said_once(norm: str) -> None:
    model = Before(lambda x: (4 * x).round() / 4)
    with pytest.warns(UserWarning, match="^pgd: the loss's gradient is zero for every image") as seen:
        x_adv = pgd(model, X, Y, norm=norm, eps=0.1, start=0)
    assert len(seen) == 1
    assert torch.equal(x_adv, X)
    with pytest.warns(UserWarning, match=r"gradient is not a number \(NaN\)"):
        x_adv = pgd(Before(lambda x: x / x.sum() * torch.nan), X, Y, norm=norm, eps=0.1, start=0)
    assert torch.equal(x_adv, X)


def test_nothing_else_warns() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for use in USES.values():
            use(random_network(), X, Y)


# ---- inference mode


@uses
def test_inference_mode(use: Use) -> None:
    expected = use(random_network(), X, Y)
    model = random_network()
    with torch.inference_mode():
        x, y = X.clone(), Y.clone()
        inside = use(model, x, y)
        assert torch.is_inference_mode_enabled()
    assert torch.equal(inside, expected)
    assert not inside.is_inference()
    assert torch.equal(use(model, x, y), expected)
    with torch.inference_mode():
        made_there = random_network()
    refused(use, "the network's weights were made under torch.inference_mode; build it outside", made_there, X, Y)


# ---- networks with an eval mode of their own


class Merging(nn.Linear):
    """As LoRA layers do: eval mode adds a second weight to the first, train mode takes it away again."""

    def __init__(self, *sizes: int):
        super().__init__(*sizes)
        self.more, self.merged = nn.Parameter(torch.ones(sizes[1], sizes[0])), False

    def train(self, mode: bool = True) -> "Merging":
        super().train(mode)
        if self.merged == mode:
            self.weight.data += -self.more.data if mode else self.more.data
            self.merged = not mode
        return self

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + (0 if self.merged else x @ self.more.T)


class KeepsNorm(nn.Sequential):
    """Batch norm stays in eval mode, as in fine-tuned backbones."""

    def train(self, mode: bool = True) -> "KeepsNorm":
        super().train(mode)
        self[1].eval()
        return self


def merging() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), Merging(64, 10), nn.Dropout(0.5))


def state(model: nn.Module) -> list[Any]:
    return [[module.training, getattr(module, "merged", None)] for module in model.modules()]


def kept(case: str) -> nn.Module:
    """A network in train mode, as its own `train` leaves it and as its owner has it."""
    torch.manual_seed(0)
    model = KeepsNorm(*random_network().children()) if case.startswith("norm") else merging()
    model.train()
    if case == "one layer in eval mode":
        model[1].eval()
    if case == "norm in train mode":
        model[1].train()
    if case == "eval mode but for dropout":
        model.eval()
        model[2].train()
    return torch.compile(model, backend="eager") if case == "compiled" else model  # type: ignore[return-value]


CASES = [
    "merging",
    "one layer in eval mode",
    "eval mode but for dropout",
    "norm kept",
    "norm in train mode",
    "compiled",
]


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_eval_mode_is_the_networks_own(case: str, fails: bool) -> None:
    model = kept(case)
    before, weights = state(model), copy.deepcopy(model.state_dict())
    try:
        with eval_mode(model):
            assert not any(training for training, _ in state(model))
            assert all(merged in (None, True) for _, merged in state(model))
            if fails:
                raise RuntimeError("on the way")
    except RuntimeError:
        assert fails
    assert state(model) == before
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, weights[name])


def test_merged_weights_are_attacked() -> None:
    model = merging().train()
    merged = copy.deepcopy(model).eval()
    assert torch.equal(attack(model, X, Y), attack(merged, X, Y))


# ---- a loss, a norm, a target


def today(model: nn.Module, x: Tensor, y: Tensor, *, eps: float, step_size: float, steps: int) -> Tensor:
    """The ℓ∞ attack as it has always been, written out."""
    lower, upper = (x - eps).clamp(min=0), (x + eps).clamp(max=1)
    x_adv = (torch.empty_like(x).uniform_(-eps, eps, generator=seeded()) + x).clamp(lower, upper)
    for _ in range(steps):
        x_adv = x_adv.detach().requires_grad_()
        logits = model.eval()(x_adv)
        direction = logits.detach().scatter(1, y[:, None], -torch.inf).softmax(1).scatter(1, y[:, None], -1)
        (gradient,) = torch.autograd.grad(logits, x_adv, direction)
        x_adv = (x_adv.detach() + step_size * gradient.sign()).clamp(lower, upper)
    return x_adv


def test_default_is_bit_for_bit_the_same() -> None:
    assert torch.equal(attack(random_network(), X, Y), today(random_network(), X, Y, **ATTACK))
    defaults = pgd(random_network(), X, Y, generator=seeded())
    assert torch.equal(defaults, today(random_network(), X, Y, eps=8 / 255, step_size=2 / 255, steps=10))


def cross(logits: Tensor, y: Tensor) -> Tensor:
    return cross_entropy(logits, y, reduction="none")


def test_own_loss_takes_the_same_steps() -> None:
    own = pgd(random_network(), X, Y, **ATTACK, loss=cross, generator=seeded())
    assert (own == attack(random_network(), X, Y)).float().mean() > 0.999
    ours, theirs = (pgd(random_network(), X, Y, norm="l2", loss=loss, generator=seeded()) for loss in (None, cross))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("loss", [None, cross])
def test_targeted_reaches_the_target(norm: str, loss: Any) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    target = (model(X).argmax(dim=1) + 1) % 10
    eps = {"linf": 0.5, "l2": 5}[norm]
    options: dict[str, Any] = {"eps": eps, "norm": norm, "steps": 40, "loss": loss, "generator": seeded()}
    there, away = (pgd(model, X, target, targeted=targeted, **options) for targeted in (True, False))
    assert (model(there).argmax(dim=1) == target).all()
    assert cross(model(away), target).mean() > cross(model(X), target).mean() > cross(model(there), target).mean()


def test_l2_is_exact_on_a_linear_network() -> None:
    model, x, y = nn.Sequential(nn.Flatten(), nn.Linear(64, 2)), X / 4 + 0.375, Y % 2
    uphill = model[1].weight.detach()[1 - y] - model[1].weight.detach()[y]
    expected = x + 0.2 * (uphill / uphill.norm(dim=1, keepdim=True)).view_as(x)
    torch.testing.assert_close(
        pgd(model, x, y, norm="l2", eps=0.2, step_size=0.2, steps=200), expected, atol=1e-3, rtol=0
    )


def test_l2_survives_small_gradients() -> None:
    model = random_network()
    model[4].weight.data *= 1e-25  # type: ignore[index]
    x_adv = pgd(model, X, Y, norm="l2", eps=0.5, steps=1, step_size=0.5, start=0)
    assert (x_adv - X).flatten(1).norm(dim=1).min() > 0.3


def test_l2_start_is_uniform_in_the_ball() -> None:
    x = torch.full((4000, 3), 0.5)
    model, y = nn.Linear(3, 2), torch.zeros(4000, dtype=torch.int64)
    noise = pgd(model, x, y, norm="l2", eps=0.4, steps=0, generator=seeded()) - x
    tenths = ((noise.norm(dim=1) / 0.4) ** 3).histc(10, 0, 1) / len(x)
    assert (tenths - 0.1).abs().max() < 0.02
    assert noise.mean(dim=0).abs().max() < 0.02


def test_score_of_ones_own() -> None:
    def largest_loss(model: nn.Module, x: Tensor, y: Tensor, generator: Any) -> Tensor:
        assert not model.training
        return cross(model(x), y)

    expected = cross(random_network().eval()(X), Y).topk(3).indices
    assert torch.equal(select(random_network(), X, Y, 3, by=largest_loss), expected)


SCORES: dict[str, Any] = {
    "column": lambda model, x, y, generator: torch.rand(6, 1),
    "float": lambda model, x, y, generator: 3.0,
    "list": lambda model, x, y, generator: [1.0] * 6,
    "bool": lambda model, x, y, generator: y > 3,
    "too few": lambda model, x, y, generator: torch.rand(5),
}


@pytest.mark.parametrize("score", SCORES.values(), ids=SCORES)
def test_other_scores_are_refused(score: Any) -> None:
    refused(
        select, r"^select: the scores are .*; one number for each image, \[6\]", random_network(), X, Y, 3, by=score
    )


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("marjin", "margin"), ("gradmach", "gradmatch"), ("gradmatch_last", "gradmatch-last"), ("EL2N", "el2n")],
)
def test_nearest_criterion(name: str, nearest: str) -> None:
    refused(
        select, rf"^select: unknown criterion '{name}'; .*; the nearest is '{nearest}'$", nn.Flatten(), X, Y, 2, by=name
    )
    with pytest.raises(KeyError, match=f"the nearest is '{nearest}'"):
        SELECTORS[name]


@pytest.mark.parametrize("by", [None, 3, ["margin"]])
def test_names_of_other_types_are_refused(by: Any) -> None:
    refused(select, "^select: unknown criterion .*; choose one of random, margin", nn.Flatten(), X, Y, 2, by=by)
