"""Test trained networks on labelled clips, and diagnose whether they use motion."""

from __future__ import annotations

__all__ = ["diagnosis", "outputs", "testing"]
