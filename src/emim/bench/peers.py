"""Alternatives to the operator that need no other package: unfold, bare products, global attention, our backends.

Each is an `OpPeer`: what it computes, where that differs from cost-volume attention, and why it cannot run where it
cannot. Peers with packages of their own are in `emim.bench.peers_installed`.

Shape suffixes: B clips, N heads, T frames, H height, W width, D channels of a head, I and J rows and columns of the
window, P = I * J displacements.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from emim.bench.measuring import DTYPES
from emim.errors import ConfigError, OpInputError
from emim.ops import cost_volume_attention, explain_backend
from emim.ops.common import PAD_VALUE

__all__ = [
    "BARE_PRODUCTS",
    "GLOBAL_ATTENTION",
    "LAYOUTS",
    "SHIFTED_PRODUCTS",
    "UNFOLD",
    "Op",
    "OpPeer",
    "OpProblem",
    "Outputs",
    "bare_products",
    "global_attention",
    "next_frames",
    "own_backend",
    "query_frames",
    "shifted_products",
    "unfold_attention",
]

LAYOUTS = ("contiguous", "projection")

Outputs = Mapping[str, Tensor]
"""Results by name, of "context" [B, N, T, H, W, D] and "affinity" [B, N, T, H, W, P] those that an operator has."""

Op = Callable[[Tensor, Tensor, Tensor, Tensor], Outputs]
"""An operator on unscaled q, k, v [B, N, T, H, W, D] and the bias [N, I, J]."""


@dataclass(frozen=True)
class OpProblem:
    """Sizes of the operator's inputs; the defaults are those of UniFormer-S's third stage at 16 x 224 x 224.

    Attributes:
        dtype: one of `DTYPES`.
        layout: "contiguous" tensors of their own, or views of one "projection", as the EMIM module has them.

    Raises:
        ConfigError: a size is below 1, the window is even, or there is no such number format or layout.
    """

    batch: int = 1
    heads: int = 5
    frames: int = 16
    height: int = 14
    width: int = 14
    head_width: int = 64
    window: int = 7
    dtype: str = "float32"
    layout: str = "contiguous"

    def __post_init__(self) -> None:
        sizes = {key: value for key, value in dataclasses.asdict(self).items() if isinstance(value, int)}
        for key, value in sizes.items():
            if value < 1:
                raise ConfigError(f"{key} must be at least 1, got {value}")
        if self.window % 2 == 0:
            raise ConfigError(f"the window must be odd, got {self.window}")
        if self.dtype not in DTYPES:
            raise ConfigError(f"no number format {self.dtype!r}; known: {', '.join(DTYPES)}")
        if self.layout not in LAYOUTS:
            raise ConfigError(f"no layout {self.layout!r}; known: {', '.join(LAYOUTS)}")

    @property
    def torch_dtype(self) -> torch.dtype:
        """Number format of the tensors."""
        return DTYPES[self.dtype]

    def tiny(self) -> OpProblem:
        """Return the task for two frames of one window, to run all code once."""
        side = min(self.window, self.height), min(self.window, self.width)
        return dataclasses.replace(self, batch=1, frames=min(2, self.frames), height=side[0], width=side[1])

    def inputs(self, device: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Random q, k, v and bias."""
        packed = torch.randn(
            self.batch, self.frames, self.height, self.width, 3, self.heads, self.head_width,
            dtype=self.torch_dtype, device=device,
        )  # fmt: skip
        views = packed.permute(4, 0, 5, 1, 2, 3, 6)
        q_BNTHWD, k_BNTHWD, v_BNTHWD = views if self.layout == "projection" else (x.contiguous() for x in views)
        return q_BNTHWD, k_BNTHWD, v_BNTHWD, torch.randn(self.heads, self.window, self.window, device=device)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class OpPeer:
    """An adapter.

    Attributes:
        what: what it computes, and what of cost-volume attention it does not.
        make: builds the operator for a task.
        why_not: why it cannot run a task on a device, with or without the backward pass; None if it can.
        same_values: its outputs are claimed to be those of the definition, which is checked before it is timed.
        compiles: it compiles for the sizes that it is given.
    """

    what: str
    make: Callable[[OpProblem], Op]
    why_not: Callable[[OpProblem, str, bool], str | None] = lambda problem, device, backward: None
    same_values: bool = False
    compiles: bool = False


def next_frames(x_BNTHWD: Tensor) -> Tensor:
    """Of every frame the one after it; of the last one itself."""
    return torch.cat([x_BNTHWD[:, :, 1:], x_BNTHWD[:, :, -1:]], dim=2)


def query_frames(q_BNTHWD: Tensor) -> Tensor:
    """Every frame but the last, whose place the one before it takes (docs/method.md, step 2)."""
    T = q_BNTHWD.shape[2]
    return torch.cat([q_BNTHWD[:, :, :-1], q_BNTHWD[:, :, max(0, T - 2) : max(1, T - 1)]], dim=2)


def own_backend(name: str) -> OpPeer:
    """The backend of that name."""

    def make(problem: OpProblem) -> Op:
        del problem
        return functools.partial(_run_backend, name)

    def why_not(problem: OpProblem, device: str, backward: bool) -> str | None:
        del backward
        return _why_backend_cannot(name, problem, device)

    return OpPeer(f"ours, {name}", make, why_not, same_values=True)


def _why_backend_cannot(name: str, problem: OpProblem, device: str) -> str | None:
    """Return the reason why the backend cannot take such tensors, or None."""
    if name == "triton" and os.environ.get("TRITON_INTERPRET") == "1":
        return "Triton's interpreter is on (TRITON_INTERPRET=1), whose time means nothing"
    small = problem.tiny()
    x = torch.empty(1, small.heads, 1, small.height, small.width, small.head_width, dtype=small.torch_dtype)
    x = x.to(device)
    try:
        explain_backend(x, x, x, torch.empty(small.heads, small.window, small.window, device=device), backend=name)
    except OpInputError as error:
        return str(error).partition("cannot run: ")[2] or str(error)
    return None


def _run_backend(name: str, q: Tensor, k: Tensor, v: Tensor, rpb: Tensor) -> Outputs:
    context, affinity = cost_volume_attention(q, k, v, rpb, backend=name, return_affinity=True)
    return {"context": context, "affinity": affinity}


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


UNFOLD = OpPeer(
    "the published semantics: neighbourhoods copied with unfold, products written out",
    lambda problem: unfold_attention,
    same_values=True,
)


def bare_products(q: Tensor, k: Tensor, v: Tensor, rpb: Tensor) -> Outputs:
    """Q k^T and p v within each frame, [B * N * T, H * W, D], and nothing else."""
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


BARE_PRODUCTS = OpPeer(
    "two batched matrix products of the dense size, q k^T and p v: a floor", lambda problem: bare_products
)
SHIFTED_PRODUCTS = OpPeer(
    "cost volume alone by shifted products: the affinity, no softmax, no values",
    lambda problem: shifted_products,
    same_values=True,
)


def global_attention(q: Tensor, k: Tensor, v: Tensor, rpb: Tensor) -> Outputs:
    """Every token attends to every token."""
    del rpb
    q_BNLD, k_BNLD, v_BNLD = (x.flatten(2, 4) for x in (q, k, v))
    return {"context": F.scaled_dot_product_attention(q_BNLD, k_BNLD, v_BNLD).view(q.shape)}


GLOBAL_ATTENTION = OpPeer(
    "global attention over all tokens of the clip by SDPA: no window, no bias, no affinity",
    lambda problem: global_attention,
)
