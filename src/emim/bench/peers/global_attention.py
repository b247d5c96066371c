"""Global self-attention over all tokens of the clip, by PyTorch's scaled_dot_product_attention.

Shape suffixes as in `emim.bench.peers.problem`, and L = T * H * W.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from emim.bench.peers.problem import OpPeer, Outputs


def global_attention(q: Tensor, k: Tensor, v: Tensor, rpb: Tensor) -> Outputs:
    """Every token attends to every token."""
    del rpb
    q_BNLD, k_BNLD, v_BNLD = (x.flatten(2, 4) for x in (q, k, v))
    return {"context": F.scaled_dot_product_attention(q_BNLD, k_BNLD, v_BNLD).view(q.shape)}


PEER = OpPeer(
    "global attention over all tokens of the clip by SDPA: no window, no bias, no affinity",
    lambda problem: global_attention,
)
