"""Operators on tensors: no parameters, no modules."""

from __future__ import annotations

from emim import _moved
from emim.ops.backends import BACKENDS, Choice
from emim.ops.cost_volume import cost_volume_attention, explain_backend
from emim.ops.motion_mlp import motion_mlp, quick_gelu

__all__ = ["BACKENDS", "Choice", "cost_volume_attention", "explain_backend", "motion_mlp", "quick_gelu"]

__getattr__ = _moved.renamed(__name__, {"explain": ("emim.ops.explain_backend", explain_backend)})
