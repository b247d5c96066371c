"""UniFormer for video, with or without EMIM in its attention blocks (docs/method.md, "The host network").

Shape suffixes: B clips, C channels, T frames, H and W height and width in pixels or tokens, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from emim.errors import ClipSizeError
from emim.nn import EMIM, AttentionBlock, LocalBlock, SelfAttention
from emim.nn.blocks import ChannelNorm
from emim.nn.emim import MotionStart
from emim.nn.layers import init_linear
from emim.ops.common import only_values_on_cpu

__all__ = ["PatchEmbed", "UniFormer"]

_STEM_STRIDE = 4
_LARGE_CLIP = 1_000_000
"""Values of a clip of about 7 frames of 224 x 224; smaller clips are faster in one batch."""


class PatchEmbed(nn.Module):
    """Strided convolution and LayerNorm over channels, [B, C, T, H, W] to fewer tokens."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel: tuple[int, int, int],
        stride: tuple[int, int, int],
        padding: tuple[int, int, int] = (0, 0, 0),
    ) -> None:
        super().__init__()
        self.norm = ChannelNorm(out_channels)
        self.proj = nn.Conv3d(in_channels, out_channels, kernel, stride, padding)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """Embed [B, C, T, H, W] in patches."""
        out: Tensor = self.norm(self.proj(x_BCTHW))
        return out


class UniFormer(nn.Module):
    """Two stages of local blocks, two of attention blocks, and a linear head.

    Args:
        num_classes: classes K of the head.
        depths: blocks of each of the four stages.
        widths: channels of each stage; those of the last two are multiples of `head_width`.
        strides: spatial strides between the stages, after the stem's 4.
        head_width: channels of one attention head.
        emim: True alternates EMIM (even blocks) and global self-attention (odd blocks) in the attention
            stages, as published; False is the plain UniFormer, global self-attention throughout.
        window: EMIM's window height and width in tokens, odd.
        motion_start: initialisation of EMIM: "appearance" or "correlation", see `emim.nn.EMIM`.
        stem_stride: temporal stride of the stem. 1 keeps the frame count (the EMIM networks); 2 halves it
            (the original UniFormer).
        mlp_ratio: hidden channels of the MLPs divided by the channels of the stage.
        drop_path: drop probability of the last block; grows linearly from 0 at the first.
        dropout: drop probability of the pooled features before the head.

    Raises:
        ValueError: a list has another length than stated, `stem_stride` is not 1 or 2, `num_classes` is below 1, the
            window is even, or the channels of an attention stage are no multiple of `head_width`.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        depths: Sequence[int],
        widths: Sequence[int],
        strides: Sequence[int] = (2, 2, 2),
        head_width: int = 64,
        emim: bool = True,
        window: int | tuple[int, int] = 7,
        motion_start: MotionStart = "appearance",
        stem_stride: int = 1,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if len(depths) != 4 or len(widths) != 4:
            raise ValueError(f"depths and widths need four stages each, got {list(depths)} and {list(widths)}")
        if len(strides) != 3:
            raise ValueError(f"strides need one number for each of three transitions, got {list(strides)}")
        if stem_stride not in (1, 2):
            raise ValueError(f"stem_stride must be 1 or 2, got {stem_stride}")
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        self.spatial_stride = _STEM_STRIDE * math.prod(strides)
        self.num_classes = num_classes
        self.num_features = widths[-1]

        self.patch_embed1 = PatchEmbed(
            3,
            widths[0],
            kernel=(3, _STEM_STRIDE, _STEM_STRIDE),
            stride=(stem_stride, _STEM_STRIDE, _STEM_STRIDE),
            padding=(1, 0, 0),
        )
        self.patch_embed2, self.patch_embed3, self.patch_embed4 = (
            PatchEmbed(narrow, wide, kernel=(1, stride, stride), stride=(1, stride, stride))
            for (narrow, wide), stride in zip(pairwise(widths), strides, strict=True)
        )

        num_blocks = sum(depths)
        drop_rates = iter([drop_path * index / max(1, num_blocks - 1) for index in range(num_blocks)])

        def local_stage(stage: int) -> nn.ModuleList:
            return nn.ModuleList(
                LocalBlock(widths[stage], mlp_ratio=mlp_ratio, drop_path=next(drop_rates)) for _ in range(depths[stage])
            )

        def attention_stage(stage: int) -> nn.ModuleList:
            dim = widths[stage]
            heads = dim // head_width
            return nn.ModuleList(
                AttentionBlock(
                    dim,
                    EMIM(dim, heads, window, motion_start=motion_start)
                    if emim and index % 2 == 0
                    else SelfAttention(dim, heads),
                    mlp_ratio=mlp_ratio,
                    drop_path=next(drop_rates),
                )
                for index in range(depths[stage])
            )

        self.blocks1 = local_stage(0)
        self.blocks2 = local_stage(1)
        self.blocks3 = attention_stage(2)
        self.blocks4 = attention_stage(3)
        self.norm = nn.BatchNorm3d(widths[-1])
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(widths[-1], num_classes)
        init_linear(self.head)

    def forward_features(self, clip_BCTHW: Tensor) -> Tensor:
        """Normalised features of the last stage, before pooling.

        Args:
            clip_BCTHW: normalised RGB clip [B, 3, T, H, W], any T >= 1, H and W at least
                `spatial_stride` (32 in the published networks).

        Returns:
            [B, C, T', H', W'] with T' = ceil(T / stem stride) and H' = H // spatial_stride, W' likewise.

        Raises:
            ClipSizeError: the clip is not [B, 3, T, H, W] or too small.
        """
        self._check_clip(clip_BCTHW)
        # Channels last: norms, point-wise convolutions and token blocks then need no transposed copies.
        x_BCTHW = clip_BCTHW.contiguous(memory_format=torch.channels_last_3d)
        for embed, blocks in (
            (self.patch_embed1, self.blocks1),
            (self.patch_embed2, self.blocks2),
            (self.patch_embed3, self.blocks3),
            (self.patch_embed4, self.blocks4),
        ):
            x_BCTHW = embed(x_BCTHW)
            for block in blocks:
                x_BCTHW = block(x_BCTHW)
        out: Tensor = self.norm(x_BCTHW)
        return out

    def forward_head(self, features_BCTHW: Tensor) -> Tensor:
        """Class scores from `forward_features`, [B, C, T', H', W'] to logits [B, K]."""
        out: Tensor = self.head(self.dropout(features_BCTHW.flatten(2).mean(-1)))
        return out

    def forward(self, clip_BCTHW: Tensor) -> Tensor:
        """Logits [B, K] of a normalised RGB clip [B, 3, T, H, W]; errors as `forward_features`."""
        if self._one_by_one(clip_BCTHW):
            return torch.cat([self.forward_head(self.forward_features(part)) for part in torch.split(clip_BCTHW, 1)])
        return self.forward_head(self.forward_features(clip_BCTHW))

    def _one_by_one(self, clip: Tensor) -> bool:
        """True for a batch of large clips on a CPU in evaluation, which are faster one by one: they fit the caches."""
        return (
            not self.training and only_values_on_cpu(clip) and len(clip) > 1 and clip.numel() >= len(clip) * _LARGE_CLIP
        )

    def _check_clip(self, clip: Tensor) -> None:
        if clip.dim() != 5 or clip.shape[1] != 3:
            raise ClipSizeError(f"a clip must be [B, 3, T, H, W], got {list(clip.shape)}")
        T, H, W = clip.shape[2:]
        if T < 1 or min(H, W) < self.spatial_stride:
            raise ClipSizeError(
                f"clip of {T} frames of {H} x {W} (height x width) is too small: the network needs at least "
                f"1 frame of {self.spatial_stride} x {self.spatial_stride}"
            )
