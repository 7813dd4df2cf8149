"""Random crops and flips: each image its own, from one seed, and every one of them possible."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import pad

from seladv.augment import crop_and_flip


def images(count: int, size: int = 5) -> Tensor:
    return torch.randint(
        1, 256, (count, 3, size, size + 1), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(crop=st.integers(0, 3), flip=st.booleans(), seed=st.integers(0, 99))
def test_every_image_is_a_window_of_its_padded_self_or_that_windows_mirror(crop: int, flip: bool, seed: int) -> None:
    x = images(6)
    augmented = crop_and_flip(x, crop=crop, flip=flip, generator=seeded(seed))
    assert augmented.shape == x.shape
    assert augmented.dtype == x.dtype
    for image, result in zip(x, augmented, strict=True):
        padded = pad(image, (crop, crop, crop, crop))
        windows = padded.unfold(1, 5, 1).unfold(2, 6, 1).flatten(1, 2).transpose(0, 1)
        mirrors = windows.flip(-1) if flip else windows
        assert any(torch.equal(result, window) for window in torch.cat([windows, mirrors]))


def test_nothing_asked_nothing_done() -> None:
    x = images(8)
    assert torch.equal(crop_and_flip(x, crop=0, flip=False, generator=seeded(0)), x)


def test_the_seed_decides() -> None:
    x = images(50)
    first, again, other = (crop_and_flip(x, crop=2, flip=True, generator=seeded(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_every_shift_and_both_sides_come_up_equally_often() -> None:
    count, crop = 18000, 1
    marked = torch.zeros(count, 1, 4, 4, dtype=torch.uint8)
    marked[:, 0, 1, 1] = 1  # its place tells the shift; mirrored, it is in the right half when not shifted
    places = (
        crop_and_flip(marked, crop=crop, flip=True, generator=seeded(0)).flatten(1).argmax(dim=1).bincount(minlength=16)
    )
    grid = places.view(4, 4)
    assert grid[:3].sum() == count
    expected = count / 3 / 6
    rows = torch.tensor([expected, expected * 2, expected * 2, expected]).expand(3, 4)
    assert torch.all((grid[:3] - rows).abs() < 5 * rows.sqrt())


def test_images_end_up_channels_last_whatever_the_crop() -> None:
    augmented = crop_and_flip(images(4), crop=1, flip=True, generator=seeded(0))
    assert augmented.is_contiguous(memory_format=torch.channels_last)
