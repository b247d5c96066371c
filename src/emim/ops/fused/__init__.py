"""Cost-volume attention fused into Triton kernels. Importing this needs Triton."""

from __future__ import annotations

from emim.ops.fused.op import cost_volume_fused

__all__ = ["cost_volume_fused"]
