"""Catastrophic overfitting on histories whose answer is known."""

from typing import Any

import pytest

from seladv.overfitting import detect


def history(fgsm: list[float | None], pgd: list[float]) -> list[dict[str, Any]]:
    lines = zip(fgsm, pgd, strict=True)
    return [
        {"epoch": epoch, "heldout_robust": robust} | ({} if single is None else {"heldout_fgsm": single})
        for epoch, (single, robust) in enumerate(lines, start=1)
    ]


def test_a_collapse_is_found_in_its_epoch() -> None:
    found = detect(history([40, 50, 55, 90, 95, 96], [35, 43, 46, 12, 1, 0]))
    assert found == (True, 4, 96)


def test_a_collapse_over_two_epochs_is_found() -> None:
    assert detect(history([40, 50, 60, 62, 80], [35, 44, 50, 40, 10])).epoch == 4


def test_a_collapse_that_training_recovers_from_is_still_one() -> None:
    assert detect(history([40, 50, 90, 52, 53], [35, 44, 10, 45, 46])) == (True, 3, 80)


@pytest.mark.parametrize(
    ("fgsm", "pgd"),
    [
        ([30, 45, 52, 55, 57], [27, 40, 46, 48, 49]),  # healthy training
        ([20, 45, 60, 70], [18, 25, 38, 47]),  # young: better against one step first, PGD still rising
        ([55 + 0.5 * e for e in range(60)], [50 - 0.2 * e for e in range(60)]),  # robust overfitting: slow
        ([60, 45, 62, 44, 61], [50, 36, 51, 35, 52]),  # noise that moves both
        ([60], [0]),
        ([], []),
    ],
)
def test_what_is_no_collapse_is_not_found(fgsm: list[float | None], pgd: list[float]) -> None:
    found = detect(history(fgsm, pgd))
    assert (found.happened, found.epoch) == (False, None)


def test_epochs_that_measured_no_fgsm_are_passed_over() -> None:
    assert detect(history([None, None, None], [40, 45, 2])) == (False, None, None)
    assert detect(history([None, 50, None, 90], [35, 44, 30, 5])) == (True, 4, 85)


def test_the_jump_is_measured_in_points() -> None:
    lines = history([50, 52], [45, 40])  # from 5 to 12
    assert detect(lines, jump=6.9).epoch == 2
    assert not detect(lines, jump=7.1).happened
