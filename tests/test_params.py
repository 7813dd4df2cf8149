"""params.yaml: how it is written, how it is read, and the one line for each mistake."""

import difflib
import re
from collections.abc import Callable
from itertools import pairwise
from math import inf, nan
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.utils.hydra import apply_overrides

from seladv.study import params
from seladv.study.places import StudyError

NUMBER = "a number or a fraction such as 8/255 is allowed"
NAMES = r"clean, full, full-k<steps>, .* or <criterion>-<percent>.* random, margin, gradmatch.* 1 to 100"
ABSENT = object()
ROOT = Path(__file__).parents[1]

# key, wrong value, what the line must say is allowed
WRONG: list[tuple[str, Any, str]] = [
    ("digits.lrr", 0.1, r"unknown key; allowed: data, .*, lr, .*, seeds; did you mean lr\?"),
    ("digits.evaluate.epss", 1, r"unknown key; allowed: steps, step_size, subset; did you mean steps\?"),
    ("digits.paper.full", {"clean": 1.0, "robust": 1.0, "auto": 1.0}, "unknown key; allowed: clean, robust"),
    ("digits.epochs", ABSENT, "missing"),
    ("digits.evaluate.steps", ABSENT, "missing"),
    ("digits.epochs", "5", "valid integer"),
    ("digits.augment", {"crop": -1, "flip": True}, "greater than or equal to 0"),
    ("digits.augment.flip", ABSENT, "missing"),
    ("digits.augment", {"crop": 1, "flip": True, "rotate": 3}, "unknown key; allowed: crop, flip"),
    ("digits.optimizer", "lion", "'adam' or 'sgd'"),
    ("digits.schedule", "cosine", "'constant' or 'one-cycle'"),
    ("digits.momentum", 1.0, "less than 1"),
    ("digits.ema", 0.99, "unknown key; allowed: data"),
    ("digits.headline", "average", "'last' or 'best'"),
    ("digits.max_hours", 0, "greater than 0"),
    ("digits.epochs", 5.0, "valid integer"),
    ("digits.epochs", True, "valid integer"),
    ("digits.lr", False, "valid number"),
    ("digits.eps", None, "valid number"),
    ("digits.paper.full", {"clean": "96 %", "robust": 1.0}, "valid number"),
    ("digits.batch_size", 0, "greater than or equal to 1"),
    ("digits.steps", 0, "greater than or equal to 1"),
    ("digits.epochs", -1, "greater than or equal to 1"),
    ("digits.holdout", 0, "greater than or equal to 1"),
    ("digits.evaluate.subset", 49, "greater than or equal to 50"),
    ("digits.eps", 0, "greater than 0"),
    ("digits.eps", -0.1, "greater than 0"),
    ("digits.eps", 1.5, "less than or equal to 1"),
    ("digits.eps", "255/8", "less than or equal to 1"),
    ("digits.eps", nan, "greater than 0"),
    ("digits.eps", "abc", NUMBER),
    ("digits.eps", "8/0", NUMBER),
    ("digits.step_size", "8/255/2", NUMBER),
    ("digits.evaluate.step_size", "", NUMBER),
    ("digits.lr", 0, "greater than 0"),
    ("digits.lr", nan, "greater than 0"),
    ("digits.lr", inf, "finite number"),
    (
        "digits.model",
        "vgg",
        "mnist-cnn, digits-cnn, resnet18, resnet18-narrow is allowed, or torchvision/<name> or timm/<name>",
    ),
    ("digits.model", 18, "valid string"),
    ("digits.data", "svhn", "'digits', 'mnist' or 'cifar10'"),
    ("digits.precision", "fp8", "'auto', 'fp32', 'bf16' or 'fp16'"),
    ("digits.seeds", [], "at least one"),
    ("digits.seeds", 0, "valid list"),
    ("digits.seeds", [0, -1], "greater than or equal to 0"),
    ("digits.seeds", [2**32], "less than 4294967296"),
    ("digits.seeds", [True], "valid integer"),
    ("digits.seeds", [0.5], "valid integer"),
    ("digits.seeds", [0, 1, 0], "each may be there once"),
    ("digits.arms", [], "at least one"),
    ("digits.arms", "full", "valid list"),
    ("digits.arms", [50], "valid string"),
    ("digits.arms", ["clean", "full", "clean"], "each may be there once"),
    ("digits.arms", ["full", "margin-0"], NAMES),
    ("digits.arms", ["margin-101"], NAMES),
    ("digits.arms", ["margin-05"], NAMES),
    ("digits.arms", ["margin-"], NAMES),
    ("digits.arms", ["marjin-50"], NAMES),
    ("digits.arms", ["full-50"], NAMES),
    ("digits.arms", ["clean-10"], NAMES),
    ("digits.arms", ["margin-1"], "from 2 percent on is allowed"),
    ("digits.evaluate", [], "a mapping of keys"),
    ("digits", 5, "a mapping of keys"),
    ("digits.model", "mnist-cnn", "does not fit the data; allowed: digits-cnn"),
    ("digits.holdout", 719, "half of the 1437"),
    ("digits.evaluate.subset", 361, "there are 360 test images"),
    ("mirror", None, "a mapping of keys"),
]
BROKEN = {  # whole files
    "empty": "",
    "not YAML": "digits: [1,\nmnist: }",
    "a list": "- digits",
    "code": "digits: !!python/object/apply:os.getcwd []",
}


@pytest.fixture
def content(root: Path) -> dict[str, Any]:
    """The committed params.yaml, to be changed."""
    read: dict[str, Any] = yaml.safe_load((root / "params.yaml").read_text())
    return read


@pytest.fixture
def write(tmp_path: Path) -> Callable[[object], Path]:
    def write(content: object) -> Path:
        path = tmp_path / "params.yaml"
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False))
        return path

    return write


def put(content: dict[str, Any], key: str, value: Any) -> None:
    *sections, last = key.split(".")
    for section in sections:
        content = content.setdefault(section, {})
    if value is ABSENT:
        del content[last]
    else:
        content[last] = value


def shown(value: Any) -> list[str]:
    """How a line may name the wrong value: whole, or the wrong item of a list or mapping."""
    items = [*value.values()] if isinstance(value, dict) else value if isinstance(value, list) else []
    return [repr(each) for each in (value, *items)]


def line(path: Path) -> str:
    """What params.check says of `path`."""
    with pytest.raises(StudyError) as caught:
        params.check(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(path))
    return message.removeprefix(str(path))


# ---- how it is written


def test_plain_yaml(root: Path) -> None:
    """No anchors, aliases, merges or tags; only block lists and block maps, but for `{}`."""
    tokens = [*yaml.scan((root / "params.yaml").read_text())]
    for token, following in pairwise(tokens):
        where = f"line {token.start_mark.line + 1}"
        assert not isinstance(token, yaml.AnchorToken | yaml.AliasToken | yaml.TagToken | yaml.DirectiveToken), where
        assert not isinstance(token, yaml.FlowSequenceStartToken), where
        assert not isinstance(token, yaml.ScalarToken) or token.value != "<<", where
        if isinstance(token, yaml.FlowMappingStartToken):
            assert isinstance(following, yaml.FlowMappingEndToken), where


PROTOCOLS = list(params.read(ROOT / "params.yaml"))


@pytest.mark.parametrize(
    "key", ["digits.epochs", "digits.eps", "mnist.paper.full.clean", *(f"{name}.max_hours" for name in PROTOCOLS)]
)
def test_dvc_changes_one_line(root: Path, tmp_path: Path, key: str) -> None:
    """`dvc exp run -S digits.epochs=3` writes params.yaml with this function of DVC."""
    before, path = (root / "params.yaml").read_text(), tmp_path / "params.yaml"
    path.write_text(before)
    apply_overrides(path, [f"{key}=3"])
    lines = difflib.unified_diff(before.splitlines(), path.read_text().splitlines(), n=0)
    removed, added = [line for line in lines if not line.startswith(("---", "+++", "@@"))]
    last = key.rsplit(".", 1)[-1]
    assert re.match(rf"- +{last}: ", removed)
    assert re.match(rf"\+ +{last}: 3( |$)", added)
    written = yaml.safe_load(path.read_text())
    put(expected := yaml.safe_load(before), key, 3)
    assert written == expected


# ---- right


def test_committed_file(root: Path) -> None:
    assert {"digits", "mnist"} <= params.check(root / "params.yaml").keys()


@pytest.mark.parametrize(
    ("written", "read"), [("8/255", 8 / 255), ("0.03", 0.03), (1, 1.0), ("1e-3", 0.001), ("1E-2", 0.01)]
)
def test_fractions(content: dict[str, Any], write: Callable[[object], Path], written: Any, read: float) -> None:
    put(content, "digits.eps", written)
    assert params.load(write(content), "digits").eps == read


def test_one_arm_and_seed(root: Path) -> None:
    study = params.load(root / "params.yaml", "digits", arm="margin-7", seed=123)
    assert (study.arms, study.seeds) == (["margin-7"], [123])


def test_training_settings(root: Path) -> None:
    study = params.load(root / "params.yaml", "digits")
    assert study.training().keys() == study.model_dump().keys() - {
        "arms", "seeds", "evaluate", "paper", "headline", "max_hours", "weights"
    }  # fmt: skip


# ---- wrong


@pytest.mark.parametrize(("key", "value", "allowed"), WRONG)
def test_wrong_value(
    content: dict[str, Any], write: Callable[[object], Path], key: str, value: Any, allowed: str
) -> None:
    put(content, key, value)
    message = line(write(content))
    assert message.startswith(f": {key}")
    assert value is ABSENT or any(each in message for each in shown(value))
    assert re.search(allowed, message)


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN)
def test_wrong_file(write: Callable[[object], Path], text: str) -> None:
    assert re.search("is not YAML: |: a section for at least one protocol is needed", line(write(text)))


def test_missing_file(tmp_path: Path) -> None:
    assert line(tmp_path / "params.yaml") == " cannot be read: No such file or directory"


@pytest.mark.parametrize("name", ["digit", ""])
def test_unknown_protocol(root: Path, name: str) -> None:
    with pytest.raises(StudyError, match=rf"^\S+: unknown protocol '{name}'; allowed: digits, [^\n]*$"):
        params.load(root / "params.yaml", name)


@pytest.mark.parametrize(("asked", "named"), [({"arm": "marjin-50"}, "marjin-50"), ({"seed": -1}, "-1")])
def test_wrong_arm_or_seed(root: Path, asked: dict[str, Any], named: str) -> None:
    with pytest.raises(StudyError, match=rf"^\S+: digits\.{next(iter(asked))}s.*{named}[^\n]*$"):
        params.load(root / "params.yaml", "digits", **asked)


@pytest.mark.parametrize(
    ("old", "new", "key"), [("  eps: 0.15", "  eps: 0.15\n  eps: 0.3", "eps"), ("\nmnist:", "\ndigits:", "digits")]
)
def test_repeated_key(root: Path, write: Callable[[object], Path], old: str, new: str, key: str) -> None:
    text = (root / "params.yaml").read_text()
    assert old in text
    message = line(write(text.replace(old, new, 1)))
    assert re.fullmatch(rf", line \d+: '{key}' stands there already in line \d+; keep one", message)


@pytest.mark.parametrize(
    "text",
    [b"digits: {eps: '1e400'}", b"digits: caf\xe9", b"5: {}", b'"a\\nb": {}'],
    ids=["too large", "not UTF-8", "a number as a name", "a name of two lines"],
)
def test_odd_bytes(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "params.yaml").write_bytes(text)
    assert line(tmp_path / "params.yaml")
