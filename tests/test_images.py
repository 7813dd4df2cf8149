"""Prepared images: disjoint parts, the same for every run; batches; random streams; random crops and flips."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import pad

from seladv.data import images
from seladv.data.images import Images, crop_and_flip, stream
from seladv.study.places import StudyError
from seladv.training import checkpoint, models


def raw(count: int) -> dict[str, Tensor]:
    """`count` training images; the pixels and the class of each are its number."""
    number = torch.arange(count)
    return {
        "train_images": number.to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 2, 2),
        "train_labels": number,
        "test_images": torch.zeros(3, 1, 2, 2, dtype=torch.uint8),
        "test_labels": torch.arange(3),
    }


def test_parts_are_disjoint() -> None:
    parts = images.split(raw(50), holdout=10)
    assert len(parts["heldout_labels"]) == 10
    assert sorted([*parts["heldout_labels"].tolist(), *parts["train_labels"].tolist()]) == list(range(50))
    for part in ("train", "heldout"):
        assert torch.equal(parts[f"{part}_images"][:, 0, 0, 0].long(), parts[f"{part}_labels"])
    assert torch.equal(parts["test_labels"], torch.arange(3))


def test_split_is_always_the_same() -> None:
    first = images.split(raw(50), holdout=10)
    torch.rand(7)
    assert torch.equal(images.split(raw(50), holdout=10)["heldout_labels"], first["heldout_labels"])


@pytest.mark.parametrize("holdout", [49, 50, 1000])
def test_too_large_holdout_is_refused(holdout: int) -> None:
    with pytest.raises(StudyError, match=rf"^holdout = {holdout}: the training set has only 50 images$"):
        images.split(raw(50), holdout=holdout)


def test_batch_is_float32_from_zero_to_one() -> None:
    parts = Images(torch.tensor([0, 51, 255], dtype=torch.uint8).view(3, 1, 1, 1), torch.tensor([4, 5, 6]))
    x, y = parts.batch(torch.tensor([2, 0, 1]))
    assert x.dtype == torch.float32
    assert x.flatten().tolist() == pytest.approx([1, 0, 0.2])
    assert y.tolist() == [6, 4, 5]


def test_batch_is_a_copy() -> None:
    parts = Images(torch.full((3, 1, 2, 2), 7, dtype=torch.uint8), torch.arange(3))
    parts.batch(torch.arange(3))[0].zero_()
    assert (parts.images == 7).all()


def test_batches_keep_the_order() -> None:
    parts = Images(torch.zeros(7, 1, 2, 2, dtype=torch.uint8), torch.arange(7))
    assert [y.tolist() for _, y in parts.batches(3)] == [[0, 1, 2], [3, 4, 5], [6]]


def test_file_holds_all_parts(tmp_path: Path) -> None:
    parts = images.split(raw(50), holdout=10)
    checkpoint.write(tmp_path / "digits.safetensors", parts, {})
    read = images.load(tmp_path / "digits.safetensors")
    assert set(read) == {"train", "heldout", "test"}
    assert all(torch.equal(read[part].images, parts[f"{part}_images"]) for part in read)
    assert all(torch.equal(read[part].labels, parts[f"{part}_labels"]) for part in read)


def test_images_may_be_elsewhere() -> None:
    """Where they would fill the device, they stay on the CPU, and a batch goes to the device of the labels."""
    parts = Images(torch.zeros(7, 1, 2, 2, dtype=torch.uint8), torch.arange(7, device="meta"))
    x, y = parts.batch(torch.tensor([3, 1]))
    assert (x.device.type, y.device.type, x.shape) == ("meta", "meta", (2, 1, 2, 2))


# ---- seeds


def test_streams_depend_on_seed_and_purpose() -> None:
    first, again, seed, purpose = (
        torch.rand(9, generator=stream(*which)) for which in ((0, "order"), (0, "order"), (1, "order"), (0, "attack"))
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, seed)
    assert not torch.equal(first, purpose)


def test_initial_weights_depend_on_the_seed() -> None:
    first, again, other = (models.build("digits-cnn", seed=seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)


# ---- crops and flips


def colour(count: int) -> Tensor:
    generator = stream(0, "test")
    return torch.randint(1, 256, (count, 3, 5, 6), dtype=torch.uint8, generator=generator)


@given(crop=st.integers(0, 3), flip=st.booleans(), seed=st.integers(0, 99))
def test_result_is_a_window_of_the_padded_image(crop: int, flip: bool, seed: int) -> None:
    """Or that window's mirror image, where flips are on."""
    x = colour(6)
    augmented = crop_and_flip(x, crop=crop, flip=flip, generator=stream(seed, "augment"))
    assert augmented.shape == x.shape
    assert augmented.dtype == x.dtype
    for image, result in zip(x, augmented, strict=True):
        padded = pad(image, (crop, crop, crop, crop))
        windows = padded.unfold(1, 5, 1).unfold(2, 6, 1).flatten(1, 2).transpose(0, 1)
        mirrors = windows.flip(-1) if flip else windows
        assert any(torch.equal(result, window) for window in torch.cat([windows, mirrors]))


def test_no_crop_and_no_flip_changes_nothing() -> None:
    assert torch.equal(crop_and_flip(colour(8), crop=0, flip=False, generator=stream(0, "augment")), colour(8))


def test_augmentation_is_reproducible() -> None:
    first, again, other = (
        crop_and_flip(colour(50), crop=2, flip=True, generator=stream(seed, "augment")) for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_shifts_and_flips_are_uniform() -> None:
    count, crop = 18000, 1
    marked = torch.zeros(count, 1, 4, 4, dtype=torch.uint8)
    marked[:, 0, 1, 1] = 1  # its place tells the shift; mirrored, it is in the right half when not shifted
    augmented = crop_and_flip(marked, crop=crop, flip=True, generator=stream(0, "augment"))
    grid = augmented.flatten(1).argmax(dim=1).bincount(minlength=16).view(4, 4)
    assert grid[:3].sum() == count
    expected = count / 3 / 6
    rows = torch.tensor([expected, expected * 2, expected * 2, expected]).expand(3, 4)
    assert torch.all((grid[:3] - rows).abs() < 5 * rows.sqrt())


def test_augmented_images_are_channels_last() -> None:
    augmented = crop_and_flip(colour(4), crop=1, flip=True, generator=stream(0, "augment"))
    assert augmented.is_contiguous(memory_format=torch.channels_last)
