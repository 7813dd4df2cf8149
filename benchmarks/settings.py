"""All settings of the benchmark. `BENCH_QUICK=1` runs every row, but too briefly to mean anything."""

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

from benchmarks import textbook
from seladv.models import mnist_cnn
from seladv.resnet import resnet18_cifar

QUICK = os.environ.get("BENCH_QUICK") == "1"
GPU = torch.cuda.is_available()


class Case(NamedTuple):
    """A network and its attack. `steps` are timed, and every time is given per step."""

    name: str
    network: Callable[[], nn.Module]
    textbook: Callable[[], nn.Module]  # the same function as public repositories write it
    shape: tuple[int, int, int]
    eps: float
    step_size: float
    steps: int
    repetitions: int
    matchings: int  # rounds of exact gradient matching beside other ways to it
    targets: dict[str, float]


MNIST = Case(
    "MNIST CNN, PGD-40", mnist_cnn, textbook.mnist_cnn, (1, 28, 28), eps=0.3, step_size=0.01,
    steps=2 if QUICK else 40, repetitions=2 if QUICK else 9, matchings=2 if QUICK else 9,
    targets={"textbook": 4.0, "peer": 3.0},
)  # fmt: skip
RESNET = Case(
    "ResNet-18, PGD-10", resnet18_cifar, resnet18_cifar, (3, 32, 32), eps=8 / 255, step_size=2 / 255,
    steps=10 if GPU else 2,  # a CPU needs seconds per step; fewer steps share what an attack costs once: no favour
    repetitions=11 if GPU else 5, matchings=11 if GPU else 3,  # a round takes a CPU most of a minute
    targets={"textbook": 3.0, "peer": 2.2},
)  # fmt: skip

CASES = (MNIST,) if QUICK else (MNIST, RESNET)
BATCHES = (4,) if QUICK else (64, 128)
SCORING_SECONDS = 0.0 if QUICK else 0.1  # a repetition of scoring lasts at least this long: one call is too short

# Exact gradient matching beside other ways to it.
MATCHING_BATCH = 4 if QUICK else 128
MATCHING_MEMORY_SIZES = (2, 4) if QUICK else (32, 64, 128)  # the batch is one of them

# Training epochs on random images, MNIST network.
TRAINING: dict[str, Any] = {
    "model": "mnist-cnn", "eps": 0.3, "step_size": 0.01, "steps": 2 if QUICK else 40, "lr": 0.001,
    "batch_size": 8 if QUICK else 64, "precision": "auto",
    "augment": {"crop": 0, "flip": False}, "optimizer": "adam", "momentum": 0, "weight_decay": 0,
    "schedule": "constant", "epochs": 1, "ema": 0, "warmup_epochs": 0,
}  # fmt: skip
EPOCH_BATCHES = 2 if QUICK else 40
EPOCH_REPETITIONS = 2 if QUICK else 5
ARMS = ("margin-13", "margin-25", "margin-50", "margin-75", "full")  # 13 % of 64, rounded down, are 12.5 %

# A stage's start, and a digits run beside it.
START_REPETITIONS = 1 if QUICK else 3
START_EPOCHS = 1 if QUICK else None  # None: all of them

# Growth: seconds of a training step of margin-50 against one setting at a time, on so many batches.
GROWTH_BATCHES = 2 if QUICK else 6
GROWTH_STEPS = (1, 2, 3) if QUICK else (5, 10, 20, 40)
GROWTH_BATCH_SIZES = (4, 8, 16) if QUICK else (16, 32, 64, 128, 256)
MEMORY_BATCH_SIZES = (8, 64) if QUICK else (64, 128, 256, 512, 1024)
