"""What a network says of a video's test views.

Shape suffixes: B videos, V views of one video, C channels, T frames, H height, W width, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

VIEWS_PER_PASS = 8
"""Views in one forward pass: enough to keep the processor busy, and memory stays bounded whatever the
number of clips and crops."""


def view_logits(model: nn.Module, views: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """The logits of every view.

    Args:
        model: [B, 3, T, H, W] to logits [B, K].
        views: for each video its views_VCTHW; all of one clip size, V may differ.
        device: where the model is.

    Returns:
        For each video its logits_VK, in float32 on `device`.
    """
    counts = [len(views_VCTHW) for views_VCTHW in views]
    all_views = torch.cat(list(views))
    logits = torch.cat([model(part.to(device)).float() for part in torch.split(all_views, VIEWS_PER_PASS)])
    return list(torch.split(logits, counts))


def mean_score(logits: Sequence[Tensor]) -> Tensor:
    """Mean over each video's views of the softmax of its logits.

    Args:
        logits: for each video its logits_VK.

    Returns:
        score_BK in float32, rows sum to 1.
    """
    return torch.stack([logits_VK.softmax(-1).mean(0) for logits_VK in logits])


def score_views(model: nn.Module, views: Sequence[Tensor], device: torch.device) -> Tensor:
    """`mean_score` of `view_logits`: score_BK in float32, rows sum to 1."""
    return mean_score(view_logits(model, views, device))
