"""Whether bfloat16 pays on a device."""

import platform

import torch


def multiplies_bfloat16(device: str | torch.device) -> bool:
    """
    Whether the device multiplies bfloat16 matrices in hardware.

    A CPU without such instructions (x86 before AVX512-BF16) emulates them: 1.4 GFLOP/s against 45 in float32 on one
    core of an AVX2 machine (torch 2.11, 2026-11-27).
    """
    if torch.device(device).type != "cpu":
        return True
    if platform.machine().lower() in ("x86_64", "amd64"):
        return torch.cpu._is_avx512_bf16_supported()
    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


__all__ = ["multiplies_bfloat16"]
