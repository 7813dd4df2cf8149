"""One seed, one independent stream of randomness per purpose."""

import hashlib

import torch


def stream(seed: int, purpose: str, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator on `device` that depends on nothing but `seed` and `purpose`.

    Separate streams pair the arms: a criterion that draws random numbers shifts neither the order of the
    batches nor the start of the attack, so two arms with one seed see the same batches.
    """
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:7], "big"))
