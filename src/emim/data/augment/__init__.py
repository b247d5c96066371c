"""Training transforms: of clips (transforms, crops, RandAugment) and of batches (mix)."""

from __future__ import annotations

__all__: list[str] = []
