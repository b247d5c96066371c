"""The published semantics as plain PyTorch writes them: every key's and value's neighbourhood copied by `unfold`.

Written from emim-spec, steps 2 to 5. Shape suffixes as in `emim.bench.peers.problem`, and Z = B * N * T, Q = H * W.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from emim.bench.peers.problem import OpPeer, Outputs, next_frames, query_frames
from emim.ops.common import PAD_VALUE


def unfold_attention(q_BNTHWD: Tensor, k_BNTHWD: Tensor, v_BNTHWD: Tensor, rpb_NIJ: Tensor) -> Outputs:
    """Context and affinity; the softmax is in float32."""
    B, N, T, H, W, D = q_BNTHWD.shape
    _, I, J = rpb_NIJ.shape
    P = I * J
    q_ZQD = query_frames(q_BNTHWD).reshape(B * N * T, H * W, D) * D**-0.5

    def neighbourhoods(x_BNTHWD: Tensor) -> Tensor:
        maps_ZDHW = next_frames(x_BNTHWD).reshape(B * N * T, H, W, D).permute(0, 3, 1, 2)
        padded = F.pad(maps_ZDHW, (J // 2, J // 2, I // 2, I // 2), value=PAD_VALUE)
        return F.unfold(padded, (I, J)).view(B * N * T, D, P, H * W).permute(0, 3, 2, 1)

    raw_ZQP = (q_ZQD[:, :, None, :] * neighbourhoods(k_BNTHWD)).sum(-1)
    affinity_BNTHWP = raw_ZQP.view(B, N, T, H, W, P) + rpb_NIJ.view(1, N, 1, 1, 1, P)
    weight_ZQP = affinity_BNTHWP.softmax(-1, dtype=torch.float32).to(v_BNTHWD.dtype).view(B * N * T, H * W, P)
    context_ZQD = (weight_ZQP[..., None] * neighbourhoods(v_BNTHWD)).sum(2)
    return {"context": context_ZQD.view(B, N, T, H, W, D), "affinity": affinity_BNTHWP}


PEER = OpPeer(
    "the published semantics: neighbourhoods copied with unfold, products written out",
    lambda problem: unfold_attention,
    same_values=True,
)
