"""Run a trained network: on one video, on many, on live sources."""

from __future__ import annotations

__all__ = ["live", "reading", "recogniser", "scoring"]
