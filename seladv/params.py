"""params.yaml, read and checked: a wrong value stops here, before any work, with one line."""

import sys
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from seladv import arms
from seladv.models import MODELS

RESERVED = ("mirror",)  # keys of params.yaml that are no protocol


class ParamsError(ValueError):
    """params.yaml asks for something impossible; one line names the key, the value and what is allowed."""


def _fraction(value: Any) -> Any:
    """Read `8/255` as the field writes it."""
    if isinstance(value, str):
        try:
            return float(Fraction(value))
        except (ValueError, ZeroDivisionError):
            raise ValueError("a number or a fraction such as 8/255 is allowed") from None
    return value


Positive = Annotated[float, BeforeValidator(_fraction), Field(gt=0, allow_inf_nan=False)]
Radius = Annotated[float, BeforeValidator(_fraction), Field(gt=0, le=1)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A part of params.yaml: no unknown keys, no silent conversions."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Evaluation(Section):
    """How the finished network is judged."""

    examples: Count  # of the test set, from its start
    steps: Count
    step_size: Radius


class Published(Section):
    """What the paper reports for an arm, percent."""

    clean: float
    robust: float


class Protocol(Section):
    """One study: a data set, a network, an attack, an optimiser, and the arms and seeds that run on them."""

    data: Literal["digits", "mnist", "cifar10"]
    holdout: Count
    model: str
    eps: Radius
    step_size: Radius
    steps: Count
    epochs: Count
    batch_size: Count
    lr: Positive
    precision: Literal["auto", "fp32", "bf16"]
    evaluate: Evaluation
    paper: dict[str, Published]
    arms: Annotated[list[str], Field(min_length=1)]
    seeds: Annotated[list[Annotated[int, Field(ge=0, lt=2**32)]], Field(min_length=1)]

    @field_validator("model")
    @classmethod
    def _known_model(cls, name: str) -> str:
        if name not in MODELS:
            raise ValueError(f"one of {', '.join(MODELS)} is allowed")
        return name

    @field_validator("arms", "seeds")
    @classmethod
    def _once(cls, values: list[Any]) -> list[Any]:
        repeated = [value for value, times in Counter(values).items() if times > 1]
        if repeated:
            raise ValueError(f"{repeated[0]!r} is there more than once; each may be there once")
        return values

    @model_validator(mode="after")
    def _arms_select(self) -> "Protocol":
        for name in self.arms:
            try:
                arm = arms.parse(name)
            except ValueError as error:
                raise ValueError(f"arms: {name!r}: {error}") from None
            if arm.percent and not arm.count(self.batch_size):
                least = -(-100 // self.batch_size)
                reason = f"selects no sample of a batch of {self.batch_size}; from {least} percent on is allowed"
                raise ValueError(f"arms: {name!r}: {reason}")
        return self

    def training(self) -> dict[str, Any]:
        """The settings that a training run depends on, and no others."""
        return self.model_dump(exclude={"arms", "seeds", "evaluate", "paper"})


def read(path: Path) -> dict[str, Any]:
    """The mapping in params.yaml, unchecked."""
    try:
        content = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise ParamsError(f"{path} does not exist") from None
    except yaml.YAMLError as error:
        raise ParamsError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict) or not set(content) - set(RESERVED):
        raise ParamsError(f"{path}: a section for at least one protocol is needed")
    return content


def load(path: Path, protocol: str, *, arm: str | None = None, seed: int | None = None) -> Protocol:
    """One protocol of params.yaml; with `arm` or `seed`, for that one alone instead of the listed ones.

    Raises:
        ParamsError: the protocol is unknown, or its section, the arm or the seed is wrong; one line.
    """
    content = read(path)
    known = [name for name in content if name not in RESERVED]
    if protocol not in known:
        raise ParamsError(f"{path}: unknown protocol {protocol!r}; allowed: {', '.join(map(str, known))}")
    section = content[protocol]
    if isinstance(section, dict):
        section |= {} if arm is None else {"arms": [arm]}
        section |= {} if seed is None else {"seeds": [seed]}
    try:
        return Protocol.model_validate(section)
    except ValidationError as error:
        raise ParamsError(f"{path}: {_line(protocol, error)}") from None


def mirror(path: Path) -> str | None:
    """The folder that params.yaml names as a mirror of the data sets, if any.

    Raises:
        ParamsError: it is not a path.
    """
    folder = read(path).get("mirror")
    if folder is not None and not isinstance(folder, str):
        raise ParamsError(f"{path}: mirror = {folder!r}: the path of a folder, or null, is allowed")
    return folder


def check(path: Path) -> dict[str, Protocol]:
    """Every protocol of params.yaml; raises as `load` does on the first that is wrong."""
    mirror(path)
    return {name: load(path, name) for name in read(path) if name not in RESERVED}


def _line(protocol: str, error: ValidationError) -> str:
    """The first mistake as `key = value: what is allowed`."""
    first, *others = error.errors()
    key = protocol + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ").replace("Input should be", "it should be")
    more = f" (and {len(others)} more)" if others else ""
    if first["type"] == "missing":
        return f"{key} is missing{more}"
    if first["type"] == "extra_forbidden":
        inside = Evaluation if "evaluate" in first["loc"] else Published if "paper" in first["loc"] else Protocol
        return f"{key} = {first['input']!r}: unknown key; allowed: {', '.join(inside.model_fields)}{more}"
    if message.startswith("arms: "):
        return f"{protocol}.{message}{more}"
    return f"{key} = {first['input']!r}: {message}{more}"


if __name__ == "__main__":
    try:
        check(Path(sys.argv[1]))
    except ParamsError as error:
        sys.exit(str(error))
