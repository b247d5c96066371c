"""Floors and parts: operators that do less than cost-volume attention.

Shape suffixes as in `emim.bench.peers.problem`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from emim.bench.peers.problem import OpPeer, Outputs, next_frames, query_frames
from emim.ops.common import PAD_VALUE


def bare_products(q: Tensor, k: Tensor, v: Tensor, rpb: Tensor) -> Outputs:
    """q k^T and p v within each frame, [B * N * T, H * W, D], and nothing else."""
    del rpb
    B, N, T, H, W, D = q.shape
    q_ZQD, k_ZKD, v_ZKD = (x.reshape(B * N * T, H * W, D) for x in (q, k, v))
    pairs_ZQK = q_ZQD @ k_ZKD.transpose(1, 2)
    return {"context": (pairs_ZQK @ v_ZKD).view(B, N, T, H, W, D), "affinity": pairs_ZQK}


def shifted_products(q: Tensor, k: Tensor, v: Tensor, rpb: Tensor) -> Outputs:
    """The affinity, one displacement after the other, as cost volumes of optical flow are often written."""
    del v
    D, H, W = q.shape[5], q.shape[3], q.shape[4]
    _, I, J = rpb.shape
    query = query_frames(q) * D**-0.5
    padded = F.pad(next_frames(k), (0, 0, J // 2, J // 2, I // 2, I // 2), value=PAD_VALUE)
    planes = [
        (query * padded[:, :, :, i : i + H, j : j + W]).sum(-1) + rpb[:, i, j].view(1, -1, 1, 1, 1)
        for i in range(I)
        for j in range(J)
    ]
    return {"affinity": torch.stack(planes, dim=-1)}


BARE = OpPeer("two batched matrix products of the dense size, q k^T and p v: a floor", lambda problem: bare_products)
SHIFTED = OpPeer(
    "cost volume alone by shifted products: the affinity, no softmax, no values",
    lambda problem: shifted_products,
    same_values=True,
)
