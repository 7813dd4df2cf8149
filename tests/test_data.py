"""Prepared images: parts that share nothing, the same for every run, and batches in the networks' format."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from seladv import checkpoint, data, models
from seladv.data import Images


def raw(count: int) -> dict[str, Tensor]:
    """`count` training images that each say, in four pixels and in their class, which one they are."""
    number = torch.arange(count)
    return {
        "train_images": number.to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 2, 2),
        "train_labels": number,
        "test_images": torch.zeros(3, 1, 2, 2, dtype=torch.uint8),
        "test_labels": torch.arange(3),
    }


def test_the_held_out_images_are_the_ones_that_training_lacks() -> None:
    parts = data.split(raw(50), holdout=10)
    assert len(parts["heldout_labels"]) == 10
    assert sorted([*parts["heldout_labels"].tolist(), *parts["train_labels"].tolist()]) == list(range(50))
    for part in ("train", "heldout"):
        assert torch.equal(parts[f"{part}_images"][:, 0, 0, 0].long(), parts[f"{part}_labels"])
    assert torch.equal(parts["test_labels"], torch.arange(3))


def test_the_same_images_are_held_out_whatever_was_drawn_before() -> None:
    first = data.split(raw(50), holdout=10)
    torch.rand(7)
    assert torch.equal(data.split(raw(50), holdout=10)["heldout_labels"], first["heldout_labels"])


@pytest.mark.parametrize("holdout", [49, 50, 1000])
def test_holding_out_nearly_everything_is_refused(holdout: int) -> None:
    with pytest.raises(ValueError, match=rf"^holdout = {holdout}: the training set has only 50 images$"):
        data.split(raw(50), holdout=holdout)


def test_a_batch_is_float32_from_zero_to_one() -> None:
    images = Images(torch.tensor([0, 51, 255], dtype=torch.uint8).view(3, 1, 1, 1), torch.tensor([4, 5, 6]))
    x, y = images.batch(torch.tensor([2, 0, 1]))
    assert x.dtype == torch.float32
    assert x.flatten().tolist() == pytest.approx([1, 0, 0.2])
    assert y.tolist() == [6, 4, 5]


def test_writing_to_a_batch_leaves_the_images_alone() -> None:
    images = Images(torch.full((3, 1, 2, 2), 7, dtype=torch.uint8), torch.arange(3))
    images.batch(torch.arange(3))[0].zero_()
    assert (images.images == 7).all()


def test_batches_are_all_images_in_their_order() -> None:
    images = Images(torch.zeros(7, 1, 2, 2, dtype=torch.uint8), torch.arange(7))
    assert [y.tolist() for _, y in images.batches(3)] == [[0, 1, 2], [3, 4, 5], [6]]


def test_a_prepared_file_reads_as_its_parts(tmp_path: Path) -> None:
    parts = data.split(raw(50), holdout=10)
    checkpoint.write(tmp_path / "digits.safetensors", parts, {})
    read = data.load(tmp_path / "digits.safetensors")
    assert set(read) == {"train", "heldout", "test"}
    assert all(torch.equal(read[part].images, parts[f"{part}_images"]) for part in read)
    assert all(torch.equal(read[part].labels, parts[f"{part}_labels"]) for part in read)


def test_a_network_starts_from_its_seed_alone() -> None:
    first, again, other = (models.build("digits-cnn", seed=seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)
