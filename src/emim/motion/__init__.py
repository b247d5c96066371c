"""See the motion that a network compares: displacement fields, videos of them, and the evidence for a prediction."""

from __future__ import annotations

from emim.motion.explanation import Explanation, explain
from emim.motion.field import MotionField, motion_field
from emim.motion.overlay import Shown, show

__all__ = ["Explanation", "MotionField", "Shown", "explain", "motion_field", "show"]
