"""Random crops and flips of a whole batch, on the device that holds it."""

import torch
from torch import Tensor
from torch.nn.functional import pad


def crop_and_flip(images: Tensor, *, crop: int, flip: bool, generator: torch.Generator) -> Tensor:
    """Each image shifted by up to `crop` pixels each way, its border filled with black, and half of them mirrored.

    One gather for the batch. The draws come from `generator` on the CPU, so every device sees the same images.

    Args:
        images: [B, C, H, W], any type.
        crop: most pixels to shift by; 0 leaves images where they are.
        flip: whether to mirror left and right, each image with probability ½.
    """
    count, _, height, width = images.shape
    top, left = torch.randint(2 * crop + 1, (2, count, 1), generator=generator)
    mirrored = torch.randint(2, (count, 1), generator=generator).bool() & flip
    rows = torch.arange(height) + top
    columns = torch.where(mirrored, torch.arange(width).flip(0), torch.arange(width)) + left
    which, rows, columns = (
        index.to(images.device, non_blocking=True)
        for index in (torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :])
    )
    padded = pad(images, (crop, crop, crop, crop)).permute(0, 2, 3, 1)
    return padded[which, rows, columns].permute(0, 3, 1, 2)
