"""The loop that README.md and docs/own-loop.md print, run with networks of torchvision and timm."""

import copy
import re
import runpy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, distributed, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torchvision.models.resnet import BasicBlock, ResNet

from seladv import guard
from seladv.attack import pgd
from seladv.selection import SELECTORS
from seladv.selection.gradmatch import cosine

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "docs/own-loop.md")
CLASSES = 5
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "torchvision": lambda: torchvision.models.mobilenet_v3_small(num_classes=CLASSES),
    "torchvision's ResNet": lambda: ResNet(BasicBlock, [1, 1, 1, 1], num_classes=CLASSES),
    "torchvision's ViT": lambda: torchvision.models.VisionTransformer(32, 16, 2, 2, 32, 64, num_classes=CLASSES),
    "timm": lambda: timm.create_model(
        "vit_tiny_patch16_224", pretrained=False, num_classes=CLASSES, img_size=32, patch_size=16, depth=2
    ),
}
networks = pytest.mark.parametrize("name", NETWORKS)


def build(name: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    model = NETWORKS[name]().to(dtype)
    if name == "torchvision's ViT":
        nn.init.normal_(model.heads.head.weight, std=0.1)  # type: ignore[union-attr,arg-type]  # it starts at zero
    return model


def images(count: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    x = torch.rand(count, 3, 32, 32, generator=draw, dtype=dtype)
    return x, torch.randint(CLASSES, (count,), generator=draw)


def blocks(page: str) -> list[str]:
    """The Python blocks from the heading "In your own loop" on."""
    section = re.split(r"^#+ In your own loop$", (ROOT / page).read_text(), flags=re.MULTILINE)[1]
    return re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)


def run(*codes: str, model: nn.Module, x: Tensor, y: Tensor, device: Any = "cpu") -> dict[str, Any]:
    """The variables after the printed lines have run, with what the pages ask for in advance."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    names: dict[str, Any] = {
        "model": model,
        "optimizer": optimizer,
        "batches": [(x, y)],
        "device": device,
        "x": x,
        "y": y,
    }
    for code in codes:
        exec(code, names)
    return names


BF16 = "bf16 = x.is_cuda and torch.cuda.is_bf16_supported(including_emulation=False)"


def test_both_pages_print_the_same_short_loop() -> None:
    codes = {blocks(page)[0] for page in PAGES}
    assert len(codes) == 1
    lines = [line for line in codes.pop().splitlines() if line and "import" not in line]
    assert len(lines) <= 10


def trains(model: nn.Module, *, bf16: bool, dtype: torch.dtype = torch.float32, device: Any = "cpu") -> None:
    """One turn of the printed loop updates the network and attacks half of a copy of the batch."""
    code = blocks("docs/own-loop.md")[0]
    assert BF16 in code
    code = code.replace(BF16, "bf16 = True") if bf16 else code
    x, y = images(4, dtype)
    before, clean = {key: value.clone() for key, value in model.named_parameters()}, x.clone()
    left = run(code, model=model, x=x, y=y, device=device)
    assert torch.equal(x, clean)  # the loop works on a copy
    change = (left["x"] - clean).abs().flatten(1).amax(dim=1)
    assert sorted(change.gt(0).nonzero()[:, 0].tolist()) == sorted(left["chosen"].tolist())
    assert len(left["chosen"]) == 2
    assert change.max() <= 8 / 255 + 1e-6
    assert left["x"].dtype == dtype
    assert all(module.training for module in model.modules())
    moved = [key for key, value in model.named_parameters() if not torch.equal(value, before[key])]
    assert len(moved) > 0.9 * len(before)  # a few start with a gradient of zero
    assert all(value.grad is not None for value in model.parameters())


@networks
@pytest.mark.parametrize(("dtype", "bf16"), [(torch.float32, True), (torch.float32, False), (torch.float64, False)])
def test_printed_loop_trains(name: str, dtype: torch.dtype, bf16: bool) -> None:
    trains(build(name, dtype), bf16=bf16, dtype=dtype, device=torch.device("cpu") if bf16 else "cpu")


@pytest.fixture
def process_group() -> Iterator[None]:
    """One process, which talks to itself."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def in_place(model: nn.Module) -> nn.Module:
    model.compile(backend="eager")
    return model


def small() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten()
    return nn.Sequential(*layers, nn.Dropout(0.2), nn.Linear(128, CLASSES))


WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "compiled": lambda model: torch.compile(model, backend="eager"),  # type: ignore[return-value]
    "compiled in place": in_place,
    "DataParallel": nn.DataParallel,
    "DDP": DistributedDataParallel,
    "DDP, compiled": lambda model: DistributedDataParallel(torch.compile(model, backend="eager")),  # type: ignore[arg-type]
}
wrappers = pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)


@wrappers
@pytest.mark.parametrize("bf16", [True, False])
@pytest.mark.usefixtures("process_group")
def test_wrapped_networks_train(wrap: Callable[[nn.Module], nn.Module], bf16: bool) -> None:
    torch.compiler.reset()
    trains(wrap(small()), bf16=bf16)


@wrappers
@pytest.mark.usefixtures("process_group")
def test_wrapped_networks_are_scored_like_plain_ones(wrap: Callable[[nn.Module], nn.Module]) -> None:
    """Also after a pass in either mode, with and without gradients, which compiles them."""
    torch.compiler.reset()
    plain, (x, y) = small(), images(6)
    wrapped = wrap(copy.deepcopy(plain))
    for mode in (True, False):
        for context in (torch.no_grad, torch.enable_grad):
            with context():
                wrapped.train(mode)(x)
    plain.load_state_dict(guard.bare(wrapped).state_dict())  # with batch norm's statistics moved
    for name in SELECTORS:
        expected, found = (
            SELECTORS[name](model, x, y, 6, generator=torch.Generator().manual_seed(0)) for model in (plain, wrapped)
        )
        assert torch.equal(found, expected), name
    expected, found = (
        pgd(model, x, y, steps=3, generator=torch.Generator().manual_seed(0)) for model in (plain, wrapped)
    )
    assert (found == expected).float().mean() > 0.999
    assert not any(module.training for module in wrapped.modules())


def test_every_printed_block_runs() -> None:
    """In their order: a score of one's own, three attacks, a faster copy, TRADES, label smoothing."""
    model, (x, y) = build("torchvision"), images(4)
    before, clean = copy.deepcopy(model.state_dict()), x.clone()
    first, *others = blocks("docs/own-loop.md")
    left = run(first, *others, model=model, x=x, y=y)
    assert len(others) == 5
    assert left["apart"] > 0
    assert left["largest_loss"](model, left["x"], y, None).shape == left["margin_loss"](model(clean), y).shape == (4,)
    assert torch.equal(x, clean)
    assert not any(torch.equal(model.state_dict()[key], before[key]) for key in before if key.endswith("weight"))


def test_example(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example = runpy.run_path(str(ROOT / "examples/own_loop.py"))
    example["main"](tmp_path / "weights.pt", count=32, epochs=1)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("epoch 1: loss ")
    assert re.search(r"weights\.pt: clean \d+\.\d %, under PGD \d+\.\d %$", lines[-1])
    state = torch.load(tmp_path / "weights.pt", weights_only=True)
    assert state["1.fc.weight"].shape == (example["CLASSES"], 512)


@networks
@pytest.mark.parametrize("selector", SELECTORS)
def test_every_criterion(name: str, selector: str) -> None:
    model, (x, y) = build(name), images(4)
    chosen = SELECTORS[selector](model, x, y, 2, generator=torch.Generator().manual_seed(0))
    assert len({*chosen.tolist()}) == 2
    assert model.training


@networks
def test_gradient_matching_is_exact(name: str) -> None:
    """Compared with one backward pass for each sample."""
    model, (x, y) = build(name, torch.float64).eval(), images(3, torch.float64)
    rows = []
    for image, label in zip(x, y, strict=True):
        loss = cross_entropy(model(image[None]), label[None])
        rows.append(torch.cat([part.flatten() for part in torch.autograd.grad(loss, [*model.parameters()])]))
    gradients = torch.stack(rows)
    expected = torch.cosine_similarity(gradients, gradients.mean(dim=0, keepdim=True))
    torch.testing.assert_close(cosine(model, x, y), expected, rtol=1e-5, atol=1e-7)


def test_unscorable_layers_are_named() -> None:
    model, (x, y) = build("timm"), images(3)
    model.blocks[1].attn.qkv.weight = model.blocks[0].attn.qkv.weight  # type: ignore[union-attr,index]
    with pytest.raises(
        ValueError, match=r"^gradmatch: blocks\.1\.attn\.qkv \(Linear\) shares its weight with blocks\.0"
    ):
        SELECTORS["gradmatch"](model, x, y, 1)
    model.head = nn.Sequential(nn.Linear(192, CLASSES), nn.Softplus())  # type: ignore[assignment]
    with pytest.raises(
        ValueError, match=r"^gradmatch-last: the logits of VisionTransformer are not its last nn\.Linear"
    ):
        SELECTORS["gradmatch-last"](model, x, y, 1)
