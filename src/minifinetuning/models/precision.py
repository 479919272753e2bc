"""Where matrix products are computed in bfloat16."""

import torch

__all__ = ["autocast", "bfloat16_pays"]


def autocast(device: torch.device | str, bf16: bool | None = None) -> torch.autocast:
    """A block whose matrix products are in bfloat16; where nothing is said, if that pays.

    with autocast(device, bf16): ...
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16): ...    # is the same
    """
    kind = torch.device(device).type
    enabled = bfloat16_pays(kind == "cpu") if bf16 is None else bf16
    return torch.autocast(kind, torch.bfloat16, enabled=enabled)


def bfloat16_pays(use_cpu: bool = False) -> bool:
    """Whether this device multiplies bfloat16 matrices in hardware."""
    if torch.cuda.is_available() and not use_cpu:
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
