"""The definition of cost-volume attention, written to be read.

It visits the window one displacement at a time, so each line can be held against docs/method.md, steps 3 to 5
(paper section 3.2). It is slow and never meant for training; every other backend is tested against it.

Shape suffixes: B batch, N heads, T frame pairs, H and W token grid, D head width, I and J window height
and width, P = I * J displacements in row-major order (dy first).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from emim.ops.common import PAD_VALUE

__all__ = ["cost_volume_reference"]


def cost_volume_reference(
    q_BNTHWD: Tensor, k_BNTHWD: Tensor, v_BNTHWD: Tensor, rpb_NIJ: Tensor
) -> tuple[Tensor, Tensor]:
    """Context and raw affinity of frame pairs that are already formed and scaled.

    Args:
        q_BNTHWD: scaled queries, one frame of them for each pair.
        k_BNTHWD: keys of the frame that each query looks at.
        v_BNTHWD: values of that same frame.
        rpb_NIJ: learned bias of each head and displacement.

    Returns:
        context_BNTHWD and affinity_BNTHWP, both in the dtype of the inputs.
    """
    H, W = q_BNTHWD.shape[3:5]
    _, I, J = rpb_NIJ.shape
    margins = (0, 0, J // 2, J // 2, I // 2, I // 2)  # F.pad counts from the last dimension: D, W, H
    k_padded = F.pad(k_BNTHWD, margins, value=PAD_VALUE)
    v_padded = F.pad(v_BNTHWD, margins, value=PAD_VALUE)

    displacements = [(i, j) for i in range(I) for j in range(J)]
    affinity_BNTHWP = torch.stack(
        [
            (q_BNTHWD * k_padded[:, :, :, i : i + H, j : j + W]).sum(-1) + rpb_NIJ[:, i, j].view(1, -1, 1, 1, 1)
            for i, j in displacements
        ],
        dim=-1,
    )
    weight_BNTHWP = affinity_BNTHWP.softmax(-1)
    context_BNTHWD = torch.zeros_like(q_BNTHWD)
    for p, (i, j) in enumerate(displacements):
        context_BNTHWD = context_BNTHWD + weight_BNTHWP[..., p, None] * v_padded[:, :, :, i : i + H, j : j + W]
    return context_BNTHWD, affinity_BNTHWP
