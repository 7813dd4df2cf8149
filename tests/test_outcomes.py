"""The subset that is attacked, AutoAttack's members by classes, and outcomes as text."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seladv.evaluation.outcomes import MEMBERS, left_out, members, pack, subset, unpack
from seladv.study.places import StudyError

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


# ---- the subset


@given(sizes=st.lists(st.integers(1, 60), min_size=1, max_size=12), data=st.data())
def test_subset_is_stratified(sizes: list[int], data: st.DataObject) -> None:
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
    count = data.draw(st.integers(0, len(labels)))
    chosen = subset(labels, count)
    assert len(chosen) == len(set(chosen.tolist())) == count
    assert chosen.tolist() == sorted(chosen.tolist())
    for taken, size in zip(labels[chosen].bincount(minlength=len(sizes)).tolist(), sizes, strict=True):
        assert abs(taken - count * size / len(labels)) < 1  # never more than a rounding away from its share


def test_subset_is_random_and_always_the_same() -> None:
    labels = torch.arange(10).repeat(1000)
    chosen = subset(labels, 500)
    torch.manual_seed(5)
    torch.rand(3)
    assert torch.equal(subset(labels, 500), chosen)
    assert labels[chosen].bincount().tolist() == [50] * 10
    assert 4500 < chosen.double().mean() < 5500  # from the whole test set, not its first images
    assert not torch.equal(chosen, torch.arange(500))


def test_subset_of_too_few_images() -> None:
    with pytest.raises(StudyError, match=r"^evaluate\.subset = 11: the test set has 10 images$"):
        subset(torch.zeros(10, dtype=torch.long), 11)


# ---- AutoAttack's members


@pytest.mark.parametrize(("classes", "missing"), [(2, ["apgd-t"]), (3, ["apgd-t"]), (4, []), (8, []), (10, [])])
def test_members(classes: int, missing: list[str]) -> None:
    assert members(classes) == [name for name in MEMBERS if name not in missing]
    line = left_out(classes)
    assert "\n" not in line
    assert line == "" if not missing else f"without apgd-t: {classes} classes" in line
