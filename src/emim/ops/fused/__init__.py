"""Cost-volume attention fused into Triton kernels. Importing this needs Triton."""

from __future__ import annotations

from emim.ops.fused.op import cost_volume_fused
from emim.ops.fused.tiles import INTERPRETED

__all__ = ["INTERPRETED", "cost_volume_fused"]
