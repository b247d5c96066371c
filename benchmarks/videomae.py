"""VideoMAE of transformers, with random weights: a whole network of another design."""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from typing import Any

from torch import Tensor, nn

from emim.bench.measuring import version_of

_SMALL = {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536}
WIDTHS: dict[str, dict[str, int]] = {"S": _SMALL, "B": {}}
"""What differs from the default configuration, by the name of the ViT."""

_PATCH = 16
_TUBELET = 2


class VideoMAE(nn.Module):
    """VideoMAEForVideoClassification on clips [B, 3, T, H, W], to logits."""

    def __init__(self, width: str, *, frames: int, size: int, classes: int) -> None:
        super().__init__()
        transformers: Any = importlib.import_module("transformers")
        config = transformers.VideoMAEConfig(image_size=size, num_frames=frames, num_labels=classes, **WIDTHS[width])
        self.model = transformers.VideoMAEForVideoClassification(config)

    def forward(self, clip_BCTHW: Tensor) -> Tensor:
        out: Tensor = self.model(clip_BCTHW.transpose(1, 2)).logits
        return out


def why_not(*, frames: int, size: int) -> str | None:
    """Why it cannot run on such clips, or None if it can."""
    if find_spec("transformers") is None:
        return "transformers is not installed (pip install transformers)"
    try:
        importlib.import_module("transformers").VideoMAEForVideoClassification  # noqa: B018
    except (ImportError, AttributeError) as error:
        return f"transformers {version_of('transformers')} does not work here: {error}"
    if frames % _TUBELET or size % _PATCH:
        return f"its patches of {_TUBELET} x {_PATCH} x {_PATCH} must divide clips of {frames} x {size} x {size}"
    return None
