"""The two residual blocks of a UniFormer (docs/method.md, "The host network").

Shape suffixes: B clips, C channels, T frames, H and W rows and columns of tokens, L = T * H * W tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from emim.nn.emim import EMIM
from emim.nn.layers import ConvMLP, DepthwiseConv3d, PointwiseConv3d, SelfAttention, TokenMLP

__all__ = ["AttentionBlock", "ChannelNorm", "DropPath", "LocalBlock"]


class DropPath(nn.Module):
    """Stochastic depth: in training, drop a residual branch for whole clips, [B, ...] to [B, ...].

    Args:
        rate: probability in [0, 1) that the branch of a clip is dropped; kept branches are scaled by 1 / (1 - rate).
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block to x, keeping its shape."""
        if not self.training or self.rate == 0.0:
            return x
        keep = 1.0 - self.rate
        mask = x.new_empty((x.shape[0],) + (1,) * (x.dim() - 1)).bernoulli_(keep)
        return x * (mask / keep)

    def extra_repr(self) -> str:
        """Return the drop probability for `repr`."""
        return f"rate={self.rate:.3f}"


class LocalBlock(nn.Module):
    """Residual block with a depth-wise convolution, of the first two stages; [B, C, T, H, W] to the same.

    Args:
        dim: channels C.
        mlp_ratio: hidden channels of the MLP divided by `dim`.
        drop_path: probability of dropping each residual branch in training.
    """

    def __init__(self, dim: int, *, mlp_ratio: float = 4.0, drop_path: float = 0.0) -> None:
        super().__init__()
        self.pos_embed = DepthwiseConv3d(dim, 3)
        self.norm1 = nn.BatchNorm3d(dim)
        self.conv1 = PointwiseConv3d(dim, dim)
        self.conv2 = PointwiseConv3d(dim, dim)
        self.attn = DepthwiseConv3d(dim, 5)
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.BatchNorm3d(dim)
        self.mlp = ConvMLP(dim, int(dim * mlp_ratio))

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """Apply the block to x, keeping its shape."""
        x_BCTHW = x_BCTHW + self.pos_embed(x_BCTHW)
        x_BCTHW = x_BCTHW + self.drop_path(self.conv2(self.attn(self.conv1(self.norm1(x_BCTHW)))))
        out: Tensor = x_BCTHW + self.drop_path(self.mlp(self.norm2(x_BCTHW)))
        return out


class AttentionBlock(nn.Module):
    """Residual block with attention, of the last two stages; [B, C, T, H, W] to the same.

    Args:
        dim: channels C.
        attn: the attention, `EMIM` or `SelfAttention` of `dim` channels.
        mlp_ratio: hidden channels of the MLP divided by `dim`.
        drop_path: probability of dropping each residual branch in training.
    """

    def __init__(self, dim: int, attn: EMIM | SelfAttention, *, mlp_ratio: float = 4.0, drop_path: float = 0.0) -> None:
        super().__init__()
        self.pos_embed = DepthwiseConv3d(dim, 3)
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = attn
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = TokenMLP(dim, int(dim * mlp_ratio))

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """Apply the block to x, keeping its shape."""
        B, C, T, H, W = x_BCTHW.shape
        x_BLC = (x_BCTHW + self.pos_embed(x_BCTHW)).flatten(2).transpose(1, 2)
        x_BLC = x_BLC + self.drop_path(self._mix(self.norm1(x_BLC), (T, H, W)))
        x_BLC = x_BLC + self.drop_path(self.mlp(self.norm2(x_BLC)))
        out: Tensor = x_BLC.transpose(1, 2).reshape(B, C, T, H, W)
        return out

    def _mix(self, x_BLC: Tensor, grid: tuple[int, int, int]) -> Tensor:
        out: Tensor = self.attn(x_BLC, grid) if isinstance(self.attn, EMIM) else self.attn(x_BLC)
        return out


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of [B, C, T, H, W], to the same."""

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """Apply the block to x, keeping its shape."""
        return torch.movedim(super().forward(torch.movedim(x_BCTHW, 1, -1)), -1, 1)
