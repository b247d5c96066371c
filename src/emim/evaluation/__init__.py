"""Use trained networks: test them on labelled clips, predict on videos."""

from __future__ import annotations
