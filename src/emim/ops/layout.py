"""How maps lie in memory, for backends that index them themselves.

Shape suffixes as in `emim.ops.cost_volume`.
"""

from __future__ import annotations

import torch
from torch import Tensor


def channels_together(x_BNTHWD: Tensor) -> Tensor:
    """x, copied if the channels of a position do not lie side by side."""
    return x_BNTHWD if x_BNTHWD.stride(-1) == 1 else x_BNTHWD.contiguous()


def empty_like_rows(x_BNTHWD: Tensor) -> Tensor:
    """Not yet filled, in the order of dimensions of x if the channels of a position lie side by side there."""
    if x_BNTHWD.stride(-1) == 1:
        return torch.empty_like(x_BNTHWD)
    return torch.empty_like(x_BNTHWD, memory_format=torch.contiguous_format)
