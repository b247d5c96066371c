"""Operators on tensors: no parameters, no modules."""

from __future__ import annotations

from emim.ops.cost_volume import BACKENDS, cost_volume_attention

__all__ = ["BACKENDS", "cost_volume_attention"]
