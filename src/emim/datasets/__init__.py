"""Looking after stored videos: examining them (doctor) and making them smaller (reencode)."""

from __future__ import annotations
