"""Scores of a video from its test views.

Shape suffixes: B videos, V views of one video, C channels, T frames, H height, W width, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

_VIEWS_PER_PASS = 8
"""Views in one forward pass: enough to keep the processor busy, and memory stays bounded whatever the
number of clips and crops."""


def score_views(model: nn.Module, views: Sequence[Tensor], device: torch.device) -> Tensor:
    """Mean over each video's views of the softmax of its logits.

    Args:
        model: [B, 3, T, H, W] to logits [B, K].
        views: for each video its views_VCTHW; all of one clip size, V may differ.
        device: where the model is.

    Returns:
        score_BK in float32, rows sum to 1.
    """
    counts = [len(views_VCTHW) for views_VCTHW in views]
    all_views = torch.cat(list(views))
    scores = torch.cat([model(part.to(device)).float().softmax(-1) for part in torch.split(all_views, _VIEWS_PER_PASS)])
    return torch.stack([part.mean(0) for part in torch.split(scores, counts)])
