"""Networks of torchvision and timm, by name, and weights from a file to start from."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from seladv.data import folders, images
from seladv.data.images import Images, stream
from seladv.evaluation.evaluate import Case, protocol_pgd
from seladv.study import params
from seladv.study.places import StudyError
from seladv.study.protocol import Protocol
from seladv.training import checkpoint, models, pretrained, trial
from seladv.training.monitor import correct, summary
from seladv.training.train import train

SIZE, CLASSES = 32, 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stripes: upright, lying and none, in random colours; 36 images for training and 12 for the test."""
    root, random = tmp_path_factory.mktemp("photos"), stream(0, "photos")
    for part, count in (("train", 12), ("test", 4)):
        for number, name in enumerate(("lying", "plain", "upright")):
            (root / part / name).mkdir(parents=True)
            for index in range(count):
                image = torch.rand(3, 1, 1, generator=random).expand(3, 40, 40).clone()
                if number == 0:
                    image[:, ::8] = 1 - image[:, ::8]
                if number == 2:
                    image[:, :, ::8] = 1 - image[:, :, ::8]
                array = (255 * image).to(torch.uint8).permute(1, 2, 0).numpy()
                Image.fromarray(array).save(root / part / name / f"{index}.png")
    return root


@pytest.fixture(scope="module")
def parts(folder: Path) -> dict[str, Images]:
    """As the data stage prepares them."""
    images.write(folder / "own.safetensors", images.split(folders.raw(folder, size=SIZE), holdout=6), {})
    return images.load(folder / "own.safetensors")


def protocol(root: Path, **changes: Any) -> Protocol:
    section = params.read(root / "params.yaml")["cifar10-small"] | {"data": {"folder": "photos", "size": SIZE}}
    section |= {"holdout": 6, "epochs": 1, "batch_size": 15, "steps": 1, "precision": "fp32", "arms": ["margin-50"]}
    return Protocol.model_validate(section | {"augment": {"crop": 2, "flip": True}} | changes)


def resnet(classes: int = 1000) -> nn.Module:
    return torchvision.models.resnet18(num_classes=classes)


def vit(classes: int = 1000, size: int = SIZE) -> nn.Module:
    return timm.create_model("test_vit", num_classes=classes, img_size=size)


FILES: dict[str, tuple[str, Callable[[], nn.Module], str]] = {
    "resnet, state dict": ("torchvision/resnet18", resnet, "resnet.pth"),
    "resnet, safetensors": ("torchvision/resnet18", resnet, "resnet.safetensors"),
    "vit, state dict": ("timm/test_vit", vit, "vit.pt"),
    "vit, safetensors": ("timm/test_vit", vit, "vit.safetensors"),
}


def save(network: nn.Module, path: Path) -> Path:
    state = network.state_dict()
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return path


@pytest.mark.parametrize(("model", "make", "name"), FILES.values(), ids=FILES)
def test_fine_tuning(
    root: Path, parts: dict[str, Images], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    model: str, make: Callable[[], nn.Module], name: str,
) -> None:  # fmt: skip
    """From a file with another head, through training, to the evaluation of what was saved."""
    asked = protocol(root, model=model, weights=str(save(make(), tmp_path / name)))
    said = trial.check(asked, parts["train"].labels, shape=parts["train"].images.shape, root=root)
    assert "starts fresh, for 3 classes" in said
    run = train(asked.training(), arm="margin-50", seed=0, data=parts, device=torch.device("cpu"))
    assert capsys.readouterr().out.count("starts fresh, for 3 classes") == 1
    assert summary(run)["settings"]["weights"].endswith(name)
    checkpoint.save_networks(tmp_path, {"last": run.model.state_dict()}, model=model, classes=3, size=run.size)
    loaded = checkpoint.load_network(tmp_path / "last.safetensors", model, device=torch.device("cpu"))
    x, _ = parts["test"].batch(torch.arange(6))
    with torch.no_grad():
        assert torch.equal(loaded(x), run.model.eval()(x))
    clean = correct(loaded, parts["test"])
    robust, _ = protocol_pgd(Case(loaded, parts["test"], clean, asked, seed=0))
    assert 0 <= robust.sum() <= clean.sum() < len(clean)


def test_fine_tuning_starts_from_the_file(tmp_path: Path) -> None:
    network = resnet()
    model = models.build("torchvision/resnet18", seed=0, classes=CLASSES, size=SIZE)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    pretrained.read_into(model, save(network, tmp_path / "a.pth"), classes=CLASSES)
    after = model.state_dict()
    for name, value in network.state_dict().items():
        same = torch.equal(after[f"1.{name}"], value)
        assert same != name.startswith("fc."), name
    assert torch.equal(after["1.fc.weight"], before["1.fc.weight"])


def test_same_head_is_kept(tmp_path: Path) -> None:
    model, network = models.build("torchvision/resnet18", seed=0, classes=CLASSES, size=SIZE), resnet(CLASSES)
    said = pretrained.read_into(model, save(network, tmp_path / "a.pth"), classes=CLASSES)
    assert said == "weights: a.pth, 122 of 122 tensors, the head included"
    assert torch.equal(model.state_dict()["1.fc.bias"], network.state_dict()["fc.bias"])


def wrapped(path: Path) -> None:
    torch.save(
        {"epoch": 3, "state_dict": {f"module.{name}": value for name, value in resnet().state_dict().items()}}, path
    )


def compiled(path: Path) -> None:
    torch.save({f"_orig_mod.{name}": value for name, value in resnet().state_dict().items()}, path)


def half(path: Path) -> None:
    torch.save(resnet().half().state_dict(), path)


def backbone(path: Path) -> None:
    torch.save({name: value for name, value in resnet().state_dict().items() if not name.startswith("fc.")}, path)


def before_counters(path: Path) -> None:
    torch.save({name: value for name, value in resnet().state_dict().items() if "num_batches" not in name}, path)


def own(path: Path) -> None:
    """A network of the study, trained on other classes."""
    torch.save(models.build("torchvision/resnet18", seed=3, classes=7, size=SIZE).state_dict(), path)


@pytest.mark.parametrize("write", [wrapped, compiled, half, backbone, before_counters, own])
def test_usual_files(tmp_path: Path, write: Callable[[Path], None]) -> None:
    write(tmp_path / "a.pth")
    model = models.build("torchvision/resnet18", seed=0, classes=CLASSES, size=SIZE)
    assert "starts fresh" in pretrained.read_into(model, tmp_path / "a.pth", classes=CLASSES)
    assert all(value.dtype in (torch.float32, torch.int64) for value in model.state_dict().values())
    assert model(torch.rand(2, 3, SIZE, SIZE)).shape == (2, CLASSES)


class Code:
    def __reduce__(self) -> tuple[object, ...]:
        return print, ("run",)


REFUSED: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "missing": ("a.pth", lambda path: None, "there is no such file"),
    "html": ("a.pth", lambda path: path.write_text("<html>"), "no state dict that torch.load reads"),
    "code": ("a.pth", lambda path: torch.save(Code(), path), "no state dict that torch.load reads"),
    "whole network": ("a.pth", lambda path: torch.save(resnet(), path), "no state dict that torch.load reads"),
    "list": ("a.pth", lambda path: torch.save([torch.ones(3)], path), "holds no state dict"),
    "nothing": ("a.pth", lambda path: torch.save({}, path), "holds no state dict"),
    "no safetensors": ("a.safetensors", lambda path: path.write_bytes(b"x" * 50), "is not a safetensors file"),
    "another depth": (
        "a.pth",
        lambda path: save(torchvision.models.resnet34(), path),
        r"1\.layer1\.2\.conv1\.weight is unknown, .* more;",
    ),
    "another library": ("a.pth", lambda path: save(vit(), path), r"conv1\.weight is missing, .* more;"),
    "another width": (
        "a.pth", lambda path: save(torchvision.models.wide_resnet50_2(), path), "name the model that it is of"
    ),
    "one tensor": (
        "a.pth",
        lambda path: torch.save(resnet().state_dict() | {"conv1.weight": torch.ones(64, 1, 7, 7)}, path),
        r"1\.conv1\.weight is \[64, 1, 7, 7\] instead of \[64, 3, 7, 7\]; name",
    ),
    "one lost": (
        "a.pth",
        lambda path: torch.save({k: v for k, v in resnet().state_dict().items() if k != "bn1.weight"}, path),
        r"1\.bn1\.weight is missing; name",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("name", "write", "line"), REFUSED.values(), ids=REFUSED)
def test_refused_files(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, write: Any, line: str) -> None:
    write(tmp_path / name)
    model = models.build("torchvision/resnet18", seed=0, classes=CLASSES, size=SIZE)
    with pytest.raises(StudyError, match=rf"^[^\n]*{line}[^\n]*$"):
        pretrained.read_into(model, tmp_path / name, classes=CLASSES)
    assert capsys.readouterr().out == ""


def test_vit_of_another_size(tmp_path: Path) -> None:
    model = models.build("timm/test_vit", seed=0, classes=CLASSES, size=SIZE)
    with pytest.raises(StudyError, match=r"pos_embed is \[1, \d+, 64\] instead of \[1, 5, 64\]"):
        pretrained.read_into(model, save(vit(size=64), tmp_path / "a.pth"), classes=CLASSES)


# ---- names


@pytest.mark.parametrize("name", [
    "torchvision/resnet18", "torchvision/squeezenet1_1", "torchvision/mobilenet_v3_small",
    "torchvision/swin_t", "timm/test_vit", "timm/resnet18.a1_in1k", "timm/test_efficientnet", "timm/test_convnext",
    "timm/deit_tiny_distilled_patch16_224",
])  # fmt: skip
def test_networks(name: str) -> None:
    """The same weights for a seed, others for another; the right number of logits; grey images too."""
    first, again, other = (models.build(name, seed=seed, classes=CLASSES, size=64).eval() for seed in (0, 0, 1))
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert first(x).shape == (2, CLASSES)
        assert torch.equal(first(x), again(x))
        assert first(x[:, :1]).shape == (2, CLASSES)
    pairs = [(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True) if a.dim() > 1]
    assert all(not torch.equal(a, b) for a, b in pairs if a.std() > 0)


@pytest.mark.parametrize(("name", "mean"), [("torchvision/resnet18", 0.485), ("timm/test_vit", 0.5)])
def test_normalisation_is_the_weights_own(name: str, mean: float) -> None:
    normalize = models.build(name, seed=0, classes=CLASSES, size=SIZE)[0]  # type: ignore[index]
    assert normalize(torch.full((1, 3, 2, 2), mean))[0, 0].abs().max() < 1e-6


NAMES = {
    "torchvision/resnet81": "torchvision has no such classifier; did you mean resnet18?",
    "torchvision/ResNet18": "torchvision has no such classifier; did you mean resnet18?",
    "torchvision/fasterrcnn_resnet50_fpn": "torchvision has no such classifier",
    "timm/vit_tiny_patch16_244": "timm has no such network; did you mean vit_tiny_patch16_224?",
    "timm/hf_hub": "timm has no such network",
    "timm/resnet-18": None,  # no such spelling anywhere: params.yaml is refused
    "torch/resnet18": None,
    "timm/": None,
    "timm/hf-hub:timm/resnet18": None,
    "torchvision/../x": None,
}


@pytest.mark.parametrize("name", NAMES)
def test_unknown_names(root: Path, name: str) -> None:
    line = NAMES[name]
    if line is None:
        with pytest.raises(ValueError, match=r"is allowed, or torchvision/<name> or timm/<name>"):
            protocol(root, model=name)
        return
    with pytest.raises(StudyError) as caught:
        models.build(name, seed=0, classes=3, size=SIZE)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(StudyError, match=r"^model = 'timm/test_vit' needs timm: pip install timm$"):
        models.build("timm/test_vit", seed=0, classes=3, size=SIZE)


# ---- the trial before any work


def tried(root: Path, count: int, size: int, **changes: Any) -> str:
    asked = protocol(root, **changes)
    return trial.check(asked, torch.arange(count) % CLASSES, shape=(count, 3, size, size), root=root)


def test_trial(root: Path) -> None:
    said = tried(root, 30, 16, model="torchvision/resnet18")
    assert said == "torchvision/resnet18: 11,178,051 weights, 3 classes, 16 × 16 pixels"


@pytest.mark.parametrize(("count", "size", "changes", "line"), [
    (9, 8, {"model": "resnet18-narrow", "batch_size": 8}, r"on a batch of 1, 8 × 8.*; an epoch's last batch"),
    (31, 32, {"model": "torchvision/resnet18", "batch_size": 15}, "on a batch of 1, .*: change batch_size or"),
    (32, 32, {"model": "torchvision/resnet18", "arms": ["full", "margin-50-whole"]}, "on a batch of 1, "),
    (30, 32, {"model": "torchvision/googlenet"}, r"returns GoogLeNetOutputs instead of logits \[15, 3\]"),
    (30, 32, {"model": "torchvision/inception_v3"}, r"on a batch of 15, 32 × 32 pixels: "),
    (30, 40, {"model": "torchvision/vit_b_16"}, r"cannot be built for 40 pixels and 3 classes: "),
    (30, 8, {"model": "torchvision/alexnet"}, r"on a batch of 15, 8 × 8 pixels: "),
    (30, 32, {"model": "torchvision/resnet18", "weights": "nowhere.pth"}, "there is no such file"),
])  # fmt: skip
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_trial_refuses(root: Path, count: int, size: int, changes: dict[str, Any], line: str) -> None:
    with pytest.raises(StudyError, match=rf"^[^\n]*{line}[^\n]*$"):
        tried(root, count, size, **changes)


@pytest.mark.parametrize(("images", "batch", "arms", "count"), [
    (30, 15, ["full"], 15), (31, 15, ["full"], 1), (7, 15, ["full"], 7), (30, 15, ["margin-50-whole"], 7),
    (33, 15, ["margin-50-whole"], 1), (31, 15, ["margin-50-whole"], 1), (32, 15, ["margin-50"], 2),
])  # fmt: skip
def test_smallest_batch(root: Path, images: int, batch: int, arms: list[str], count: int) -> None:
    assert trial.smallest(protocol(root, batch_size=batch, arms=arms), images) == count


def test_trial_draws_no_random_numbers(root: Path) -> None:
    before = torch.random.get_rng_state()
    tried(root, 30, 32, model="timm/test_vit")
    after: Tensor = torch.random.get_rng_state()
    assert torch.equal(before, after)
