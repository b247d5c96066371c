"""Operators on tensors: no parameters, no modules."""

from __future__ import annotations

from emim.ops.backends import BACKENDS, Choice
from emim.ops.cost_volume import cost_volume_attention, explain

__all__ = ["BACKENDS", "Choice", "cost_volume_attention", "explain"]
