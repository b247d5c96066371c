"""Run a trained network: on videos, on many of them, on live sources."""

from __future__ import annotations
