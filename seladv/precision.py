"""Which number format the network computes in."""

from contextlib import AbstractContextManager

import torch


def resolve(precision: str, device: torch.device) -> str:
    """Turn `auto` into `bf16` where `device` computes it natively and into `fp32` elsewhere.

    Emulated bf16 is slower than fp32, so the hardware is asked: CUDA itself, or the CPU's AVX-512 bf16 and AMX
    flags. `bf16` and `fp32` pass through: a forced precision is the user's choice.
    """
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    flags = torch.cpu.get_capabilities()
    return "bf16" if flags.get("avx512_bf16") or flags.get("amx_bf16") else "fp32"


def autocast(precision: str, device: torch.device) -> AbstractContextManager[None]:
    """A context in which the network computes in `precision` while weights and images stay fp32.

    Enter it once around a whole attack: the weights are then cast once and not at every step. Leave it before
    the weights change.
    """
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")
