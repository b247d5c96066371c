"""Modules to build video networks from: `EMIM`, self-attention, and the two residual blocks of a UniFormer."""

from __future__ import annotations

from emim.nn.blocks import AttentionBlock, LocalBlock
from emim.nn.emim import EMIM
from emim.nn.layers import SelfAttention

__all__ = ["EMIM", "AttentionBlock", "LocalBlock", "SelfAttention"]
