"""Work on whole data sets.

Manifests of published ones (`prepare`), generated clips (`synthetic`), examination of every video (`doctor`), smaller
copies (`reencode`).
"""

from __future__ import annotations

__all__: list[str] = []
