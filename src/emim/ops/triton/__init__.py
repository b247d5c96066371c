"""Cost-volume attention and the motion MLP fused into Triton kernels. Importing this needs Triton."""

from __future__ import annotations

import re
from typing import Final

import triton

from emim.ops.triton.cost_volume import cost_volume_triton
from emim.ops.triton.motion_mlp import motion_mlp_triton
from emim.ops.triton.tiles import INTERPRETED

_OLDEST_TRITON: Final = (3, 3)  # the first with a gather

TOO_OLD: Final = (
    f"Triton {triton.__version__} is older than {_OLDEST_TRITON[0]}.{_OLDEST_TRITON[1]}; PyTorch 2.7 brings that"
    if tuple(map(int, re.findall(r"\d+", triton.__version__)[:2])) < _OLDEST_TRITON
    else None
)
"""Reason why this Triton cannot compile the kernels, or None if it can."""

__all__ = ["INTERPRETED", "TOO_OLD", "cost_volume_triton", "motion_mlp_triton"]
