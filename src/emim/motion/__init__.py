"""See the motion that a network compares: displacement fields, pictures of them, and what a decision rests on."""

from __future__ import annotations

from emim.motion.field import MotionField, motion_field

__all__ = ["MotionField", "motion_field"]
