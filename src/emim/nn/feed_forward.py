"""The position-wise MLPs of blocks, and point-wise convolution as a matrix product.

Shape suffixes: B batch, C channels, T frames, H and W token grid, L tokens, R rows (positions).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from emim.nn.initialisation import init_linear
from emim.ops.row_blocks import in_row_blocks


class TokenMLP(nn.Module):
    """Two linear layers with GELU on [B, L, C]."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, dim)
        self.apply(init_linear)

    def forward(self, x_BLC: Tensor) -> Tensor:
        return in_row_blocks(lambda x: self.fc2(self.act(self.fc1(x))), x_BLC)


class PointwiseConv3d(nn.Conv3d):
    """1 x 1 x 1 convolution computed as a matrix product over channels.

    Same weights and values as the convolution. With channels-last clips no data moves, and its gradient on
    CPUs is several times faster than that of the convolution.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=1)

    def forward(self, input: Tensor) -> Tensor:  # the base class names the argument
        return self.on_rows(input.movedim(1, -1)).movedim(-1, 1)

    def on_rows(self, x: Tensor) -> Tensor:
        """The same with the channels in the last dimension."""
        return F.linear(x, self.weight.flatten(1), self.bias)


class ConvMLP(nn.Module):
    """Two 1 x 1 x 1 convolutions with GELU on [B, C, T, H, W]."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = PointwiseConv3d(dim, hidden)
        self.act = nn.GELU()
        self.fc2 = PointwiseConv3d(hidden, dim)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        if self.training:  # by its modules, so that hooks on them see what they make
            out: Tensor = self.fc2(self.act(self.fc1(x_BCTHW)))
            return out
        out_BTHWC = in_row_blocks(lambda x: self.fc2.on_rows(self.act(self.fc1.on_rows(x))), x_BCTHW.movedim(1, -1))
        return out_BTHWC.movedim(-1, 1)
