"""Depth-wise 3-D convolution whose gradient is quick on CPUs.

Shape suffixes: B batch, C channels, T frames, H and W token grid.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from emim.ops.common import has_values, in_row_blocks, under_function_transform


def init_linear(module: nn.Module) -> None:
    """Linear weights truncated normal with std 0.02, biases zero; other modules stay as they are."""
    if isinstance(module, nn.Linear) and has_values(module.weight):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class DepthwiseConv3d(nn.Conv3d):
    """Depth-wise convolution with an odd cubic kernel that keeps the size, [B, C, T, H, W] to the same.

    Values, weights and gradients are those of `nn.Conv3d(dim, dim, kernel_size, padding=kernel_size // 2,
    groups=dim)`. The gradient of its input is again a depth-wise convolution, by the flipped kernel; on CPUs
    PyTorch's forward of that is about ten times faster than its general backward, so training takes it.
    """

    def __init__(self, dim: int, kernel_size: int) -> None:
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, got {kernel_size}")
        super().__init__(dim, dim, kernel_size, padding=kernel_size // 2, groups=dim)

    def forward(self, input: Tensor) -> Tensor:  # the base class names the argument
        own_gradient = input.device.type == "cpu" and torch.is_grad_enabled() and not torch.compiler.is_compiling()
        if own_gradient and not under_function_transform():
            # In bfloat16 the weight's gradient is slower still on CPUs, so autocast is not followed here.
            with torch.autocast("cpu", enabled=False):
                out: Tensor = _DepthwiseConv3dOnCPU.apply(  # type: ignore[no-untyped-call]
                    input.to(self.weight.dtype), self.weight, self.bias
                )
            return out
        return super().forward(input)


class _DepthwiseConv3dOnCPU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BCTHW: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x_BCTHW, weight)
        return _same_conv(x_BCTHW, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad_BCTHW: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x_BCTHW, weight = ctx.saved_tensors
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad
        grad_x = _same_conv(grad_BCTHW, weight.flip(2, 3, 4), None) if wants_x else None
        grad_weight = None
        if wants_weight:
            padding = [side // 2 for side in weight.shape[2:]]
            _, grad_weight, _ = torch.ops.aten.convolution_backward(
                grad_BCTHW, x_BCTHW, weight, None, [1, 1, 1], padding, [1, 1, 1], False, [0, 0, 0],
                weight.shape[0], [False, True, False],
            )  # fmt: skip
        grad_bias = grad_BCTHW.sum((0, 2, 3, 4)) if wants_bias else None
        return grad_x, grad_weight, grad_bias


def _same_conv(x_BCTHW: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.conv3d(x_BCTHW, weight, bias, padding=weight.shape[-1] // 2, groups=weight.shape[0])


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
