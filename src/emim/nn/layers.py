"""Convolutions, MLPs and self-attention of the residual blocks, fast on CPUs together with their gradients.

Shape suffixes: B clips, C channels, T frames, H and W rows and columns of tokens, L tokens, N heads, D channels of a
head.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from emim.ops.common import has_values, in_row_blocks, under_function_transform

__all__ = [
    "ConvMLP",
    "DepthwiseConv3d",
    "PointwiseConv3d",
    "SelfAttention",
    "TokenMLP",
    "check_heads",
    "init_linear",
]


def init_linear(module: nn.Module) -> None:
    """Initialise a linear layer: weights truncated normal with std 0.02, biases zero; other modules are unchanged."""
    if isinstance(module, nn.Linear) and has_values(module.weight):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class DepthwiseConv3d(nn.Conv3d):
    """Depth-wise convolution with an odd cubic kernel that keeps the size, [B, C, T, H, W] to the same.

    Values, weights and gradients are those of `nn.Conv3d(dim, dim, kernel_size, padding=kernel_size // 2,
    groups=dim)`. The gradient of its input is a depth-wise convolution with the flipped kernel, which on CPUs is about
    ten times faster in PyTorch than the general backward pass, so training uses it.

    Args:
        dim: channels C.
        kernel_size: side of the kernel, odd.

    Raises:
        ValueError: `kernel_size` is even.
    """

    def __init__(self, dim: int, kernel_size: int) -> None:
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, got {kernel_size}")
        super().__init__(dim, dim, kernel_size, padding=kernel_size // 2, groups=dim)

    def forward(self, input: Tensor) -> Tensor:  # the base class names the argument
        """Apply the layer; see the class for shapes."""
        own_gradient = input.device.type == "cpu" and torch.is_grad_enabled() and not torch.compiler.is_compiling()
        if own_gradient and not under_function_transform():
            # In bfloat16 the gradient of the weight is even slower on CPUs, so autocast is switched off here.
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
    """Two linear layers with GELU between them, [B, L, C] to the same.

    Args:
        dim: channels C.
        hidden: channels between the layers.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, dim)
        self.apply(init_linear)

    def forward(self, x_BLC: Tensor) -> Tensor:
        """Apply the layer; see the class for shapes."""
        return in_row_blocks(lambda x: self.fc2(self.act(self.fc1(x))), x_BLC)


class PointwiseConv3d(nn.Conv3d):
    """1 x 1 x 1 convolution computed as a matrix product, [B, C, T, H, W] to the same with `out_channels`.

    Weights and values are those of the convolution. With channels-last clips no data is copied, and the gradient is
    several times faster on CPUs.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=1)

    def forward(self, input: Tensor) -> Tensor:  # the base class names the argument
        """Apply the layer; see the class for shapes."""
        return self.on_rows(input.movedim(1, -1)).movedim(-1, 1)

    def on_rows(self, x: Tensor) -> Tensor:
        """Apply the convolution to channels in the last dimension, [..., C] to [..., out_channels]."""
        return F.linear(x, self.weight.flatten(1), self.bias)


class ConvMLP(nn.Module):
    """Two 1 x 1 x 1 convolutions with GELU between them, [B, C, T, H, W] to the same.

    Args:
        dim: channels C.
        hidden: channels between the convolutions.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = PointwiseConv3d(dim, hidden)
        self.act = nn.GELU()
        self.fc2 = PointwiseConv3d(hidden, dim)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """Apply the layer; see the class for shapes."""
        if self.training:  # through the modules, so that hooks on them run
            out: Tensor = self.fc2(self.act(self.fc1(x_BCTHW)))
            return out
        out_BTHWC = in_row_blocks(lambda x: self.fc2.on_rows(self.act(self.fc1.on_rows(x))), x_BCTHW.movedim(1, -1))
        return out_BTHWC.movedim(-1, 1)


class SelfAttention(nn.Module):
    """Multi-head self-attention, [B, L, C] to [B, L, C].

    Args:
        dim: channels C, a multiple of `num_heads`.
        num_heads: heads N.

    Raises:
        ValueError: `dim` is not a multiple of `num_heads`.

    Weights: `qkv`, `proj`.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        check_heads(dim, num_heads)
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.apply(init_linear)

    def forward(self, x_BLC: Tensor) -> Tensor:
        """Attend from every token to every token, [B, L, C] to [B, L, C]."""
        B, L, C = x_BLC.shape
        q_BNLD, k_BNLD, v_BNLD = (
            self.qkv(x_BLC).reshape(B, L, 3, self.num_heads, C // self.num_heads).permute(2, 0, 3, 1, 4)
        )
        context_BNLD = F.scaled_dot_product_attention(q_BNLD, k_BNLD, v_BNLD)
        out: Tensor = self.proj(context_BNLD.transpose(1, 2).reshape(B, L, C))
        return out


def check_heads(dim: int, num_heads: int) -> None:
    """Raise ValueError unless the channels divide evenly among the heads."""
    if num_heads < 1 or dim % num_heads:
        raise ValueError(f"dim {dim} does not divide into {num_heads} heads")
