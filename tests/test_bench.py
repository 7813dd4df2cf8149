"""The contestants of the benchmark do the same work, and the table has them all; no test depends on a speed."""

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from seladv import frozen
from seladv.attack import pgd
from seladv.training import models

sys.path.append(str(Path(__file__).parents[1]))  # the benchmark is no part of the installed package

from benchmarks import __main__, attacks, contest, epochs, matching, peers
from benchmarks.contest import Case, Contest

STEPS, BATCH, CPU = 3, 12, torch.device("cpu")
TINY = Case("digits-cnn", BATCH, (1, 8, 8), {"eps": 0.15, "step_size": 0.03, "steps": STEPS})
SHAPES = {"digits-cnn": (1, 8, 8), "mnist-cnn": (1, 28, 28), "resnet18-narrow": (3, 32, 32)}


def passes(models: list[nn.Module], call: Callable[[], Any]) -> tuple[int, int]:
    """Samples that a call puts through the networks, and those whose gradient gets back to a first convolution."""
    forward: list[int] = []
    backward: list[int] = []

    def hook(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        forward.append(len(output))
        if output.requires_grad:
            output.register_hook(lambda gradient: backward.append(len(gradient)))

    for model in models:
        next(module for module in model.modules() if isinstance(module, nn.Conv2d)).register_forward_hook(hook)
    call()
    return sum(forward), sum(backward)


@pytest.mark.parametrize("name", SHAPES)
def test_the_usual_network_is_the_same_function_in_the_default_layout(name: str) -> None:
    model, x = models.build(name, seed=0).eval(), torch.rand(3, *SHAPES[name])
    plain = attacks.usual(model)
    torch.testing.assert_close(plain(x), model(x), rtol=1e-4, atol=1e-5)
    assert not any(module.training for module in plain.modules())
    assert next(w.stride() for w in plain.parameters()) == (9 * len(x[0]), 9, 3, 1)
    assert name == "resnet18-narrow" or isinstance(plain[4], nn.MaxPool2d)


def test_the_textbook_attack_makes_the_same_images_from_the_same_start(trained: nn.Module, batch: Any) -> None:
    made = []
    for call, model in ((attacks.textbook, attacks.usual(trained)), (pgd, trained)):
        torch.manual_seed(0)
        made.append(call(model.eval(), *batch, **TINY.attack))
    torch.testing.assert_close(made[0], made[1], rtol=0, atol=1e-6)
    assert (made[0] - batch[0]).abs().amax() > 0.1


def test_the_limit_and_the_textbook_make_as_many_passes_as_ours() -> None:
    model, x, y = contest.sample(TINY, CPU)
    settings = {"x": x, "y": y, **TINY.attack}
    bare = partial(attacks.limit, x=x, precision="fp32", steps=STEPS)
    for call in (partial(pgd, **settings), partial(attacks.textbook, **settings), bare):
        network = attacks.usual(model)
        assert passes([network], partial(call, network)) == (STEPS * BATCH, STEPS * BATCH)


@pytest.mark.parametrize(("arm", "scored", "attacked"), [("full", 0, BATCH), ("margin-50", BATCH, BATCH // 2)])
def test_both_epochs_put_as_many_images_through_the_network(arm: str, scored: int, attacked: int) -> None:
    calls: Any = epochs.contest(TINY, batches=2, device=CPU).calls
    textbook, ours = (calls[f"{name}, {arm}"] for name in ("textbook", "seladv"))
    updated = attacked * STEPS + BATCH
    run = ours.args[0]

    def counted() -> None:
        run.frozen.built = frozen._build(run.model)  # the copy has the hooks, too
        ours()

    for networks, call in (([textbook.args[0]], textbook), ([run.model, run.frozen.network], counted)):
        assert passes(networks, call) == (2 * (scored + updated), 2 * updated)


def test_gradient_matchings_rivals_find_its_scores() -> None:
    one = matching.contest(TINY, precision="fp32", device=CPU, found=peers.load(peers.GRADIENTS))
    scores = {name: call() for name, call in one.calls.items() if name != matching.PASSES}
    assert {"vmap(grad)", "a backward pass per sample"} < {*scores}
    for score in scores.values():
        torch.testing.assert_close(score, scores["gradmatch"], rtol=0, atol=1e-4)
    assert one.check(one.calls | scores | {"vmap(grad)": scores["gradmatch"] - 0.5})["vmap(grad)"] == 0.5


def test_contestants_take_turns_until_the_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    monkeypatch.setattr(contest, "clock", lambda: len(order))
    calls = {name: partial(order.append, name) for name in "abc"}
    assert contest.in_turns(calls, seconds=15).eq(1).all(axis=None)
    assert [set(order[start : start + 3]) for start in range(0, len(order), 3)] == [{*"abc"}] * 5
    assert [len(contest.in_turns(calls, seconds=s)) for s in (0, 1e9)] == [contest.LEAST, contest.MOST]


def test_a_ratio_is_taken_round_by_round(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = pd.DataFrame({"a": [1.0, 20.0, 300.0], "b": [3.0, 40.0, 300.0]})
    monkeypatch.setattr(contest, "in_turns", lambda calls, seconds: rounds)
    rows = contest.run(Contest("", "", 4, "a", {"a": int, "b": int}, lambda results: {"b": 7.0}), seconds=0)
    assert [row["ms"]["median"] for row in rows] == [5000, 10_000]
    assert [[*row["ratio"].values()] for row in rows] == [[1, 1, 1], [1.5, 2, 2.5]]
    assert [row["check"] for row in rows] == [None, 7]


def test_the_report_has_a_row_for_each_contestant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contest, "LEAST", 1)
    __main__.main(tmp_path, cases=[TINY], batches=1, seconds=0)
    (report,), (content,) = tmp_path.glob("*.md"), tmp_path.glob("*.json")
    rows = json.loads(content.read_text())["rows"]
    lines = [line for line in report.read_text().splitlines() if line.startswith("|")]
    second = next(number for number, line in enumerate(lines) if "implementation" in line)
    table, halves = lines[:second], lines[second:]
    shown = [tuple(cell.strip() for cell in line.split("|")[1:3]) for line in table[2:]]
    contests = __main__.contests([TINY], batches=1, device=__main__.device(), found=peers.load())
    assert shown == [(row["contest"], row["contestant"]) for row in rows]
    assert shown == [(one.title, name) for one in contests for name in one.calls]
    assert [line.split("|")[2].strip() for line in halves[2:]] == ["textbook", "seladv"]
    ways = {
        "textbook",
        "seladv, fp32",
        "plain, fp32",
        "limit, fp32",
        "textbook, full",
        "seladv, margin-50",
        "gradmatch",
        "vmap(grad)",
    }
    assert ways <= {name for _, name in shown}
    losses = [row["check"] for row in rows if row["unit"] == "PGD step" and row["check"]]
    assert losses[1:] == pytest.approx([losses[0]] * (len(losses) - 1), rel=0.02)
