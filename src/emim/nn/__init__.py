"""Modules to build video networks from: `EMIM`, self-attention, and the two residual blocks of a UniFormer."""

from __future__ import annotations

from emim.nn.attention import SelfAttention
from emim.nn.blocks import AttentionBlock, LocalBlock
from emim.nn.emim import EMIM

__all__ = ["EMIM", "AttentionBlock", "LocalBlock", "SelfAttention"]
