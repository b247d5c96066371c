"""Number formats that networks train and run in."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, overload

import torch

__all__ = ["Precision", "TrainingPrecision", "resolve_precision"]

Precision = Literal["32-true", "bf16-mixed"]
"""Format for inference: float32, or bfloat16 wherever autocast considers it safe."""

TrainingPrecision = Literal["32-true", "16-mixed", "bf16-mixed", "64-true"]
"""Format for training, in Lightning's names."""


@overload
def resolve_precision(
    wanted: Precision | Literal["auto"], device_type: str, *, exact_on_cpu: bool = False
) -> Precision: ...


@overload
def resolve_precision(
    wanted: TrainingPrecision | Literal["auto"], device_type: str, *, exact_on_cpu: bool = False
) -> TrainingPrecision: ...


def resolve_precision(
    wanted: TrainingPrecision | Literal["auto"], device_type: str, *, exact_on_cpu: bool = False
) -> TrainingPrecision:
    """Return `wanted`; for "auto", bfloat16 if the device computes in it natively, otherwise float32.

    float16 is never chosen: its small range gives infinite affinities and NaN losses.

    Args:
        wanted: the format asked for, or "auto".
        device_type: "cpu" or "cuda".
        exact_on_cpu: "auto" is float32 on every CPU, for figures that are to be reproduced elsewhere.
    """
    if wanted != "auto":
        return wanted
    if exact_on_cpu and device_type == "cpu":
        return "32-true"
    native = torch.cuda.is_bf16_supported(including_emulation=False) if device_type == "cuda" else _cpu_has_bf16()
    return "bf16-mixed" if native else "32-true"


def _cpu_has_bf16() -> bool:
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.is_file() and " amx_bf16" in cpuinfo.read_text(encoding="utf-8", errors="replace")
