"""Cost-volume attention and the motion MLP fused into Triton kernels. Importing this needs Triton."""

from __future__ import annotations

from emim.ops.fused.motion_op import motion_mlp_fused
from emim.ops.fused.op import cost_volume_fused
from emim.ops.fused.tiles import INTERPRETED

__all__ = ["INTERPRETED", "cost_volume_fused", "motion_mlp_fused"]
