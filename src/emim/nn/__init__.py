"""Modules to build networks from."""

from __future__ import annotations

from emim.nn.attention import SelfAttention
from emim.nn.blocks import AttentionBlock, LocalBlock
from emim.nn.emim import EMIM

__all__ = ["EMIM", "AttentionBlock", "LocalBlock", "SelfAttention"]
