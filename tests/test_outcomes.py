"""Outcomes as text, and the worst case over attacks."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seladv.evaluation.outcomes import pack, unpack, worst_case

BITS = st.lists(st.booleans(), max_size=70)


@given(bits=BITS)
def test_pack_unpack(bits: list[bool]) -> None:
    hits = torch.tensor(bits, dtype=torch.bool)
    text = pack(hits)
    assert len(text) == 2 * -(-len(bits) // 8)
    assert unpack(text, len(bits)).dtype == torch.bool
    assert unpack(text, len(bits)).tolist() == bits


def test_bit_order() -> None:
    assert pack(torch.tensor([True] + 8 * [False] + [True])) == "8040"


@pytest.mark.parametrize(
    ("text", "n", "reason"),
    [("80", 9, "hold no 9 images"), ("8000", 8, "hold no 8 images"), ("zz", 8, "hexadecimal"), ("81", 7, "beyond")],
)
def test_bad_text(text: str, n: int, reason: str) -> None:
    with pytest.raises(ValueError, match=rf"^outcomes: .*{reason}[^\n]*$"):
        unpack(text, n)


@given(columns=st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), min_size=1, max_size=20))
def test_worst_case(columns: list[tuple[bool, bool, bool]]) -> None:
    worst = worst_case([torch.tensor(row) for row in zip(*columns, strict=True)])
    assert worst.tolist() == [all(column) for column in columns]


def test_worst_case_of_shared_images() -> None:
    long, short = torch.tensor([True, False, True, True]), torch.tensor([True, True])
    assert worst_case([long, short]).tolist() == [True, False]


def test_worst_case_of_more_images() -> None:
    long, short = torch.tensor([True, False, True, False]), torch.tensor([False, True])
    assert worst_case([long, short], examples=3).tolist() == [False, False, True]
    assert worst_case([short, long], examples=3).tolist() == [False, False, True]
    assert worst_case([long, short], examples=1).tolist() == [False]
    assert short.tolist() == [False, True]  # the arguments are unchanged
    with pytest.raises(ValueError, match="no attack saw 5 images"):
        worst_case([long, short], examples=5)


def test_worst_case_of_nothing() -> None:
    with pytest.raises(ValueError, match="no outcomes"):
        worst_case([])
