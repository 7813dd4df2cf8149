"""The loop that README.md and docs/own-loop.md print, run with networks of torchvision and timm."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from seladv.selection import SELECTORS
from seladv.selection.gradmatch import cosine

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "docs/own-loop.md")
CLASSES = 5
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "torchvision": lambda: torchvision.models.mobilenet_v3_small(num_classes=CLASSES),
    "timm": lambda: timm.create_model(
        "vit_tiny_patch16_224", pretrained=False, num_classes=CLASSES, img_size=32, patch_size=16, depth=2
    ),
}
networks = pytest.mark.parametrize("name", NETWORKS)


def build(name: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    return NETWORKS[name]().to(dtype)


def images(count: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    x = torch.rand(count, 3, 32, 32, generator=draw, dtype=dtype)
    return x, torch.randint(CLASSES, (count,), generator=draw)


def loop(page: str) -> str:
    """The Python block under the heading "In your own loop"."""
    section = re.split(r"^#+ In your own loop$", (ROOT / page).read_text(), flags=re.MULTILINE)[1]
    match = re.search(r"```python\n(.*?)```", section, flags=re.DOTALL)
    assert match
    return match[1]


def run(code: str, model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Any]:
    """The variables after the printed lines have run."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    given = {"model": model, "optimizer": optimizer, "batches": [(x, y)], "device": torch.device("cpu"), "x": x, "y": y}
    names: dict[str, Any] = {**given, "torch": torch, "cross_entropy": cross_entropy}
    exec(code, names)
    return names


AUTOCAST = "    with torch.autocast(device.type, torch.bfloat16):"


@networks
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("autocast", [True, False])
def test_printed_loop_trains(name: str, dtype: torch.dtype, autocast: bool) -> None:
    code = loop("docs/own-loop.md")
    assert AUTOCAST in code
    model, (x, y) = build(name, dtype), images(4, dtype)
    before, clean = {key: value.clone() for key, value in model.named_parameters()}, x.clone()
    left = run(code if autocast else code.replace(AUTOCAST, "    if True:"), model, x, y)
    assert torch.equal(x, clean)  # the loop works on a copy
    change = (left["x"] - clean).abs().flatten(1).amax(dim=1)
    assert sorted(change.gt(0).nonzero()[:, 0].tolist()) == sorted(left["chosen"].tolist())
    assert len(left["chosen"]) == 2
    assert change.max() <= 8 / 255 + 1e-6
    assert left["x"].dtype == dtype
    assert model.training
    moved = [key for key, value in model.named_parameters() if not torch.equal(value, before[key])]
    assert len(moved) > 0.9 * len(before)  # a few start with a gradient of zero
    assert all(value.grad is not None for value in model.parameters())


def test_both_pages_print_the_same_short_loop() -> None:
    codes = {loop(page) for page in PAGES}
    assert len(codes) == 1
    lines = [line for line in codes.pop().splitlines() if line and "import" not in line]
    assert len(lines) <= 10


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
