"""UniFormer with EMIM as published, in plain PyTorch: what "the published semantics with unfold" costs as a network.

Written from docs/method.md ("The module", "The host network"). Weight names are those of `emim.models.UniFormer`, so
that the same weights load. Everything is as a plain implementation has it: clips [B, C, T, H, W] without channels-last,
ordinary convolutions for point-wise and depth-wise ones, attention as softmax(q k^T) v, neighbourhoods by `unfold`.

Shape suffixes: B batch, C channels, T frames, H and W token grid, L = T * H * W tokens, N heads, D head width.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from emim.bench.peers import unfold_attention
from emim.models import UniFormer
from emim.nn import EMIM, AttentionBlock, LocalBlock

Grid = tuple[int, int, int]


class _Norm(nn.LayerNorm):
    """LayerNorm over the channels of [B, C, T, H, W]."""

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        return super().forward(x_BCTHW.permute(0, 2, 3, 4, 1)).permute(0, 4, 1, 2, 3).contiguous()


class _Embed(nn.Module):
    def __init__(self, narrow: int, wide: int, kernel: Grid, stride: Grid, padding: Grid = (0, 0, 0)) -> None:
        super().__init__()
        self.proj = nn.Conv3d(narrow, wide, kernel, stride, padding)
        self.norm = _Norm(wide)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        out: Tensor = self.norm(self.proj(x_BCTHW))
        return out


class _MLP(nn.Module):
    """Two layers with GELU: linear ones on tokens, or 1 x 1 x 1 convolutions on maps."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.fc1, self.fc2, self.act = first, second, nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(self.act(self.fc1(x)))
        return out


class _Local(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.pos_embed = nn.Conv3d(dim, dim, 3, padding=1, groups=dim)
        self.norm1, self.norm2 = nn.BatchNorm3d(dim), nn.BatchNorm3d(dim)
        self.conv1, self.conv2 = nn.Conv3d(dim, dim, 1), nn.Conv3d(dim, dim, 1)
        self.attn = nn.Conv3d(dim, dim, 5, padding=2, groups=dim)
        self.mlp = _MLP(nn.Conv3d(dim, hidden, 1), nn.Conv3d(hidden, dim, 1))

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        x_BCTHW = x_BCTHW + self.pos_embed(x_BCTHW)
        x_BCTHW = x_BCTHW + self.conv2(self.attn(self.conv1(self.norm1(x_BCTHW))))
        out: Tensor = x_BCTHW + self.mlp(self.norm2(x_BCTHW))
        return out


class _Global(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x_BLC: Tensor, grid: Grid) -> Tensor:
        B, L, C = x_BLC.shape
        q_BNLD, k_BNLD, v_BNLD = self.qkv(x_BLC).view(B, L, 3, self.heads, C // self.heads).permute(2, 0, 3, 1, 4)
        weight_BNLL = (q_BNLD * (C // self.heads) ** -0.5 @ k_BNLD.transpose(-2, -1)).softmax(-1)
        out: Tensor = self.proj((weight_BNLL @ v_BNLD).transpose(1, 2).reshape(B, L, C))
        return out


class _QuickGELU(nn.Module):
    def forward(self, z: Tensor) -> Tensor:
        return z * torch.sigmoid(1.702 * z)


class _Motion(nn.Module):
    """EMIM by `unfold_attention`."""

    def __init__(self, dim: int, heads: int, window: tuple[int, int]) -> None:
        super().__init__()
        self.heads = heads
        P = window[0] * window[1]
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.rpb = nn.Parameter(torch.zeros(heads, *window))
        self.motion_conv = nn.Sequential(nn.Linear(P, 4 * P), _QuickGELU(), nn.Linear(4 * P, dim // heads))

    def forward(self, x_BLC: Tensor, grid: Grid) -> Tensor:
        B, L, C = x_BLC.shape
        qkv = self.qkv(x_BLC).view(B, *grid, 3, self.heads, C // self.heads).permute(4, 0, 5, 1, 2, 3, 6)
        q_BNTHWD, k_BNTHWD, v_BNTHWD = qkv
        outputs = unfold_attention(q_BNTHWD, k_BNTHWD, v_BNTHWD, self.rpb)
        both_BNTHWD = outputs["context"] + self.motion_conv(outputs["affinity"])
        out: Tensor = self.proj(both_BNTHWD.permute(0, 2, 3, 4, 1, 5).reshape(B, L, C))
        return out


class _Token(nn.Module):
    def __init__(self, dim: int, hidden: int, attn: _Global | _Motion) -> None:
        super().__init__()
        self.pos_embed = nn.Conv3d(dim, dim, 3, padding=1, groups=dim)
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.attn = attn
        self.mlp = _MLP(nn.Linear(dim, hidden), nn.Linear(hidden, dim))

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        B, C, T, H, W = x_BCTHW.shape
        x_BLC = (x_BCTHW + self.pos_embed(x_BCTHW)).flatten(2).transpose(1, 2)
        x_BLC = x_BLC + self.attn(self.norm1(x_BLC), (T, H, W))
        x_BLC = x_BLC + self.mlp(self.norm2(x_BLC))
        out: Tensor = x_BLC.transpose(1, 2).reshape(B, C, T, H, W)
        return out


class UnfoldUniFormer(nn.Module):
    """The network of another UniFormer in plain PyTorch, with a copy of its weights; [B, 3, T, H, W] to logits.

    Stochastic depth and dropout are left out: they must be 0 in the other, or training differs.

    Args:
        ours: the network; sizes are read off its weights.
    """

    def __init__(self, ours: UniFormer) -> None:
        super().__init__()
        stages = [ours.blocks1, ours.blocks2, ours.blocks3, ours.blocks4]
        embeds = [ours.patch_embed1, ours.patch_embed2, ours.patch_embed3, ours.patch_embed4]
        widths = [embed.proj.out_channels for embed in embeds]
        stem = embeds[0].proj
        self.patch_embed1 = _Embed(3, widths[0], *(_triple(x) for x in (stem.kernel_size, stem.stride, stem.padding)))
        self.patch_embed2, self.patch_embed3, self.patch_embed4 = (
            _Embed(narrow, wide, _triple(embed.proj.kernel_size), _triple(embed.proj.stride))
            for (narrow, wide), embed in zip(pairwise(widths), embeds[1:], strict=True)
        )
        self.blocks1, self.blocks2 = (
            nn.Sequential(*(_Local(dim, _hidden(block)) for block in stage))
            for dim, stage in zip(widths[:2], stages[:2], strict=True)
        )
        self.blocks3, self.blocks4 = (
            nn.Sequential(*(_Token(dim, _hidden(block), _mixer(dim, block)) for block in stage))
            for dim, stage in zip(widths[2:], stages[2:], strict=True)
        )
        self.norm = nn.BatchNorm3d(widths[-1])
        self.head = nn.Linear(widths[-1], ours.num_classes)
        self.load_state_dict(ours.state_dict())

    def forward(self, clip_BCTHW: Tensor) -> Tensor:
        x_BCTHW = self.blocks1(self.patch_embed1(clip_BCTHW))
        x_BCTHW = self.blocks2(self.patch_embed2(x_BCTHW))
        x_BCTHW = self.blocks3(self.patch_embed3(x_BCTHW))
        x_BCTHW = self.blocks4(self.patch_embed4(x_BCTHW))
        out: Tensor = self.head(self.norm(x_BCTHW).flatten(2).mean(-1))
        return out


def _hidden(block: nn.Module) -> int:
    assert isinstance(block, LocalBlock | AttentionBlock)
    return block.mlp.fc1.weight.shape[0]


def _mixer(dim: int, block: nn.Module) -> _Global | _Motion:
    assert isinstance(block, AttentionBlock)
    attn = block.attn
    if isinstance(attn, EMIM):
        return _Motion(dim, attn.num_heads, (attn.rpb.shape[1], attn.rpb.shape[2]))
    return _Global(dim, attn.num_heads)


def _triple(sizes: object) -> Grid:
    assert isinstance(sizes, tuple)
    frames, height, width = sizes
    return frames, height, width
