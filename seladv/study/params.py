"""params.yaml, read and checked: a wrong value stops here, before any work, with one line."""

import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from seladv.study.places import StudyError, nearest
from seladv.study.protocol import Augmentation, Evaluation, Folder, Protocol, Published

SECTIONS: dict[str, type[BaseModel]] = {
    "evaluate": Evaluation,
    "paper": Published,
    "augment": Augmentation,
    "(folder)": Folder,
}
NAME = r"[A-Za-z][A-Za-z0-9_-]*"
WORDS = {"too_short": "at least one is needed", "model_type": "a mapping of keys to values is needed"}


class Repeated(Exception):
    """A key that stands twice in one mapping: its name, and both lines."""


class Loader(yaml.SafeLoader):
    """YAML in which a mapping has each key once, where YAML itself would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if isinstance(key, yaml.ScalarNode):
                if key.value in lines:
                    raise Repeated(key.value, lines[key.value], line)
                lines[key.value] = line
        return super().construct_mapping(node, deep=deep)


def read(path: Path) -> dict[str, Any]:
    """The mapping in params.yaml, unchecked."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=Loader)
    except Repeated as error:
        key, first, second = error.args
        raise StudyError(f"{path}, line {second}: {key!r} stands there already in line {first}; keep one") from None
    except OSError as error:
        raise StudyError(f"{path} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise StudyError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict) or not content:
        raise StudyError(f"{path}: a section for at least one protocol is needed")
    for name in content:
        if not isinstance(name, str) or not re.fullmatch(NAME, name):
            allowed = "letters, digits, - and _, a letter first"  # DVC and papermill would misread others
            raise StudyError(f"{path}: {name!r} is no name for a protocol; allowed: {allowed}")
    return content


def load(path: Path, protocol: str, *, arm: str | None = None, seed: int | None = None) -> Protocol:
    """One protocol of params.yaml; with `arm` or `seed`, for that one alone instead of the listed ones.

    Raises:
        StudyError: the protocol is unknown, or its section, the arm or the seed is wrong; one line.
    """
    content = read(path)
    if protocol not in content:
        allowed = f"allowed: {', '.join(content)}{nearest(protocol, content)}"
        raise StudyError(f"{path}: unknown protocol {protocol!r}; {allowed}")
    section = content[protocol]
    if isinstance(section, dict):
        section |= {} if arm is None else {"arms": [arm]}
        section |= {} if seed is None else {"seeds": [seed]}
    try:
        return Protocol.model_validate(section)
    except ValidationError as error:
        raise StudyError(f"{path}: {_line(protocol, error)}") from None


def check(path: Path) -> dict[str, Protocol]:
    """Every protocol of params.yaml; raises as `load` does on the first that is wrong."""
    return {name: load(path, name) for name in read(path)}


def fits(path: Path, name: str, *, train: int, test: int) -> None:
    """Check the protocol `name` of params.yaml against the images that there are, counted as in `Protocol.fits`.

    Raises:
        StudyError: it asks for too many; one line.
    """
    try:
        load(path, name).fits(train, test)
    except ValueError as error:
        raise StudyError(f"{path}: {name}.{error}") from None


def _line(protocol: str, error: ValidationError) -> str:
    """The first mistake as `key = value: what is allowed`; a misspelt key before the one that it leaves missing."""
    first, *others = sorted(error.errors(), key=lambda each: each["type"] != "extra_forbidden")
    loc = [part for part in first["loc"] if not str(part).startswith("(")]
    key = protocol + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc)
    message = WORDS.get(first["type"], first["msg"].removeprefix("Value error, "))
    message = message.replace("Input should be", "it should be")
    more = f" (and {len(others)} more)" if others else ""
    if first["type"] == "missing":
        return f"{key} is missing{more}"
    if first["type"] == "extra_forbidden":
        inside = next((section for key, section in SECTIONS.items() if key in first["loc"]), Protocol)
        missing = [each["loc"] for each in others if each["type"] == "missing"]
        left = [str(each[-1]) for each in missing if each[:-1] == first["loc"][:-1]]
        meant = nearest(str(loc[-1]), left) or nearest(str(loc[-1]), inside.model_fields)
        return f"{key} = {first['input']!r}: unknown key; allowed: {', '.join(inside.model_fields)}{meant}{more}"
    if first["loc"] == () and first["type"] == "value_error":  # a check of several keys names them itself
        return f"{protocol}.{message}{more}"
    return f"{key} = {first['input']!r}: {message}{more}"
