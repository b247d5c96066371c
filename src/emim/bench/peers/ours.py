"""The backends of this package, as candidates among the others."""

from __future__ import annotations

import functools
import os

import torch
from torch import Tensor

from emim.bench.peers.problem import Op, OpPeer, OpProblem, Outputs
from emim.errors import OpInputError
from emim.ops import cost_volume_attention, explain


def backend(name: str) -> OpPeer:
    """The backend of that name."""

    def make(problem: OpProblem) -> Op:
        del problem
        return functools.partial(_run, name)

    def why_not(problem: OpProblem, device: str, backward: bool) -> str | None:
        del backward
        return reason(name, problem, device)

    return OpPeer(f"ours, {name}", make, why_not, same_values=True)


def reason(name: str, problem: OpProblem, device: str) -> str | None:
    """Why the backend cannot take such tensors, or None if it can."""
    if name == "fused" and os.environ.get("TRITON_INTERPRET") == "1":
        return "Triton's interpreter is on (TRITON_INTERPRET=1), whose time means nothing"
    small = problem.tiny()
    x = torch.empty(1, small.heads, 1, small.height, small.width, small.head_width, dtype=small.torch_dtype)
    x = x.to(device)
    try:
        explain(x, x, x, torch.empty(small.heads, small.window, small.window, device=device), backend=name)
    except OpInputError as error:
        return str(error).partition("cannot run: ")[2] or str(error)
    return None


def _run(name: str, q: Tensor, k: Tensor, v: Tensor, rpb: Tensor) -> Outputs:
    context, affinity = cost_volume_attention(q, k, v, rpb, backend=name, return_affinity=True)
    return {"context": context, "affinity": affinity}
