"""Global self-attention over all tokens of a clip.

Shape suffixes: B clips, L tokens, C channels, N heads, D channels of a head.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from emim.nn.layers import init_linear

__all__ = ["SelfAttention", "check_heads"]


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
