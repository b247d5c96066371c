"""All candidates for the operator, by name: this package's backends first, then what else there is."""

from __future__ import annotations

from pathlib import Path

from emim.bench.peers import flex, global_attention, natten, ours, products, published, unfold
from emim.bench.peers.problem import OpPeer
from emim.ops import BACKENDS


def op_peers(published_source: Path | None = None) -> dict[str, OpPeer]:
    """The candidates.

    Args:
        published_source: folder of the published CUDA kernels, or None.
    """
    return {
        **{name: ours.backend(name) for name in BACKENDS},
        "unfold": unfold.PEER,
        "bare-products": products.BARE,
        "shifted-products": products.SHIFTED,
        "global-sdpa": global_attention.PEER,
        "flex-attention": flex.PEER,
        "natten": natten.PEER,
        "published-cuda": published.peer(published_source),
    }
