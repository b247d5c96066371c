"""Functions of rows, applied to a block of rows at a time.

Shape suffixes: R rows, C and K channels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

PAD_VALUE: Final = 1e-6
"""Every channel of a key or value outside the frame. It takes part in the softmax (docs/method.md, step 3)."""


def being_exported() -> bool:
    """Whether a graph is being made that others will run, by torch.export, ONNX export or torch.jit.trace."""
    tracing: bool = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    return tracing or torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export()


def being_traced() -> bool:
    """The same, or by torch.compile."""
    return torch.compiler.is_compiling() or being_exported()


def only_values_on_cpu(x: Tensor) -> bool:
    """Whether what is done with x on the CPU leaves nothing but values: no gradients are kept, no graph is made.

    Work may then be cut up as the caches like it.
    """
    return x.device.type == "cpu" and not torch.is_grad_enabled() and not being_traced()


def channels_together(x_BNTHWD: Tensor) -> Tensor:
    """x, copied if the channels of a position do not lie side by side."""
    return x_BNTHWD if x_BNTHWD.stride(-1) == 1 else x_BNTHWD.contiguous()


def empty_like_rows(x_BNTHWD: Tensor) -> Tensor:
    """Not yet filled, in the order of dimensions of x if the channels of a position lie side by side there."""
    if x_BNTHWD.stride(-1) == 1:
        return torch.empty_like(x_BNTHWD)
    return torch.empty_like(x_BNTHWD, memory_format=torch.contiguous_format)


_ROWS = 1024
"""Rows of a block: with the widths of these networks what lies between two layers stays in a core's cache."""


def in_row_blocks(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """function(x), for a function of each row by itself that makes something large in between, such as an MLP.

    On CPUs, and where nothing is kept for gradients, the function is called with blocks of rows: the hidden
    activations of a whole clip would travel to memory and back twice. Values are the same up to rounding.

    Args:
        function: [R, C] to [R, K].
        x: [..., C].

    Returns:
        [..., K].
    """
    if x.numel() < 2 * _ROWS * x.shape[-1] or not only_values_on_cpu(x):
        return function(x)
    blocks_RC = torch.split(x.reshape(-1, x.shape[-1]), _ROWS)
    first_RK = function(blocks_RC[0])
    out_RK = first_RK.new_empty(x.shape[:-1].numel(), first_RK.shape[-1])
    for number, part_RK in enumerate(torch.split(out_RK, _ROWS)):
        part_RK.copy_(function(blocks_RC[number]) if number else first_RK)
    return out_RK.view(*x.shape[:-1], -1)
