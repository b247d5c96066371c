"""Functions of rows, applied to a block of rows at a time.

Shape suffixes: R rows, C and K channels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from emim.ops.tracing import only_values_on_cpu

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
