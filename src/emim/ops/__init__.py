"""Operators on tensors: no parameters, no modules."""

from __future__ import annotations

from emim.ops.backends import BACKENDS, Choice
from emim.ops.cost_volume import cost_volume_attention, explain
from emim.ops.motion_mlp import motion_mlp, quick_gelu

__all__ = ["BACKENDS", "Choice", "cost_volume_attention", "explain", "motion_mlp", "quick_gelu"]
