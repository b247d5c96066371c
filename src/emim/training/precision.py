"""Which numbers the network computes in, where the recipe leaves it open."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

Precision = Literal["32-true", "16-mixed", "bf16-mixed", "64-true"]


def resolve_precision(wanted: Precision | Literal["auto"], device_type: str) -> Precision:
    """`wanted`, or for "auto" bfloat16 where `device_type` computes in it natively, else float32.

    float16 is never chosen: its small range gives infinite affinities and NaN losses.
    """
    if wanted != "auto":
        return wanted
    native = torch.cuda.is_bf16_supported(including_emulation=False) if device_type == "cuda" else _cpu_has_bf16()
    return "bf16-mixed" if native else "32-true"


def _cpu_has_bf16() -> bool:
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.is_file() and " amx_bf16" in cpuinfo.read_text(encoding="utf-8", errors="replace")
