"""What a protocol's section of params.yaml may say."""

import re
from collections import Counter
from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, field_validator, model_validator

from seladv.study import arms
from seladv.study.places import nearest

IMAGES = {"digits": (1437, 360), "mnist": (60000, 10000), "cifar10": (50000, 10000)}  # for training, for the test
NETWORKS = {"digits": ("digits-cnn",), "mnist": ("mnist-cnn",)}  # data not named here are colour: any of RESNETS
RESNETS = ("resnet18", "resnet18-narrow")
MODELS = ("mnist-cnn", "digits-cnn", *RESNETS)  # the names in training/models.py, which imports torch
LIBRARIES = r"(torchvision|timm)/[A-Za-z0-9_.]+"  # see training/library.py; for any data


def _fraction(value: Any) -> Any:
    """Read `8/255` as the field writes it, and `1e-3` or `1E-3`, which YAML hands over as text."""
    if not isinstance(value, str):
        return value
    if re.fullmatch(r"\d+/0*[1-9]\d*|\d+(\.\d*)?([eE][+-]?\d{1,2})?", value):
        return float(Fraction(value))
    raise ValueError("a number or a fraction such as 8/255 is allowed")


Positive = Annotated[float, BeforeValidator(_fraction), Field(gt=0, allow_inf_nan=False)]
Radius = Annotated[float, BeforeValidator(_fraction), Field(gt=0, le=1)]
Share = Annotated[float, BeforeValidator(_fraction), Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
Enough = Annotated[int, Field(ge=50)]  # images: of fewer, one image alone is more than two points
Name = Annotated[str, Field(min_length=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


class Section(BaseModel):
    """A part of params.yaml: no unknown keys, no silent conversions."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Evaluation(Section):
    """How the finished network is evaluated: nothing of it can be switched off."""

    steps: Count  # of the protocol's own PGD, on all test images
    step_size: Radius
    subset: Enough  # test images for every other attack: see `evaluation.outcomes.subset`


class Augmentation(Section):
    """What is done to every training image anew at each visit: see `data.images.crop_and_flip`."""

    crop: Annotated[int, Field(ge=0, le=64)]
    flip: bool


class Folder(Section):
    """Images of one's own: `folder`/train and `folder`/test hold a folder of images for each class."""

    folder: str
    size: Annotated[int, Field(ge=8, le=512)]  # every image is brought to size × size pixels


# One's own images are a mapping, the known data sets a name; the tags keep an error to the one that was meant.
Data = Annotated[
    Annotated[Literal["digits", "mnist", "cifar10"], Tag("(name)")] | Annotated[Folder, Tag("(folder)")],
    Discriminator(lambda value: "(folder)" if isinstance(value, dict | Folder) else "(name)"),
]


class Published(Section):
    """What the paper reports for an arm, percent."""

    clean: float
    robust: float


class Protocol(Section):
    """One study: a data set, a network, an attack, an optimiser, and the arms and seeds that run on them."""

    data: Data
    holdout: Count
    model: str
    weights: Name | None = None  # a file that training starts from; a relative one counts from the root
    eps: Radius
    step_size: Radius
    steps: Count
    epochs: Count
    batch_size: Count
    augment: Augmentation
    optimizer: Literal["adam", "sgd"]
    lr: Positive
    momentum: Share  # of sgd; adam has its own
    weight_decay: Share
    schedule: Literal["constant", "one-cycle"]
    warmup_epochs: Annotated[int, Field(ge=0)]  # of the arms with `-warmup` or `-frozen`, and of no other
    precision: Literal["auto", "fp32", "bf16", "fp16"]
    headline: Literal["last", "best"]  # which network the tables show
    max_hours: Positive
    evaluate: Evaluation
    paper: dict[str, Published]
    arms: Annotated[list[str], Field(min_length=1)]
    seeds: Annotated[list[Seed], Field(min_length=1)]

    @field_validator("model")
    @classmethod
    def _known_model(cls, name: str) -> str:
        if name not in MODELS and not re.fullmatch(LIBRARIES, name):
            known = f"one of {', '.join(MODELS)} is allowed, or torchvision/<name> or timm/<name>"
            raise ValueError(known + nearest(name, MODELS))
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
                raise ValueError(f"arms = {name!r}: {error}") from None
            if arm.percent and not arm.count(self.batch_size):
                least = -(-100 // self.batch_size)
                reason = f"selects no sample of a batch of {self.batch_size}; from {least} percent on is allowed"
                raise ValueError(f"arms = {name!r}: {reason}")
        return self

    @model_validator(mode="after")
    def _fits_the_data(self) -> "Protocol":
        fitting = RESNETS if isinstance(self.data, Folder) else NETWORKS.get(self.data, RESNETS)
        if self.model not in fitting and "/" not in self.model:
            raise ValueError(f"model = {self.model!r}: does not fit the data; allowed: {', '.join(fitting)}")
        if not isinstance(self.data, Folder):
            self.fits(*IMAGES[self.data])
        return self

    def fits(self, train: int, test: int) -> None:
        """Check what counts images, against `train` training images, the held-out ones included, and `test` others.

        Raises:
            ValueError: it asks for too many; the line begins with the key.
        """
        if self.holdout > train // 2:
            raise ValueError(f"holdout = {self.holdout}: at most half of the {train} training images is allowed")
        if self.evaluate.subset > test:
            raise ValueError(f"evaluate.subset = {self.evaluate.subset}: there are {test} test images")

    def training(self) -> dict[str, Any]:
        """The settings that a training run depends on, and no others; `weights` only where there are some."""
        apart = {"arms", "seeds", "evaluate", "paper", "headline", "max_hours"}
        return self.model_dump(exclude=apart if self.weights else {*apart, "weights"})
