"""Neighbourhood attention of NATTEN 0.21, between each frame and the next.

A peer in cost, not in values: at borders NATTEN moves the window into the frame instead of padding, it has no bias,
and it does not return the affinity. On CPUs only its back end over flex_attention runs, forward only and uncompiled.
Shape suffixes as in `emim.bench.peers.problem`.
"""

from __future__ import annotations

import importlib
import warnings
from importlib.util import find_spec

import torch
from torch import Tensor

from emim.bench.peers.problem import Op, OpPeer, OpProblem, Outputs, next_frames, query_frames
from emim.bench.settings import version_of

_VERSION = "0.21"


def make(problem: OpProblem) -> Op:
    na2d = importlib.import_module("natten").na2d

    def op(q: Tensor, k: Tensor, v: Tensor, rpb: Tensor) -> Outputs:
        del rpb
        B, N, T, H, W, D = q.shape

        def of_frames(x_BNTHWD: Tensor) -> Tensor:
            return x_BNTHWD.permute(0, 2, 3, 4, 1, 5).reshape(B * T, H, W, N, D)

        maps = (of_frames(x) for x in (query_frames(q), next_frames(k), next_frames(v)))
        chosen = {} if q.is_cuda else {"backend": "flex-fna"}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it is not compiled, and deprecations within it
            context: Tensor = na2d(*maps, kernel_size=(problem.window, problem.window), **chosen)
        return {"context": context.view(B, T, H, W, N, D).permute(0, 4, 1, 2, 3, 5)}

    return op


def why_not(problem: OpProblem, device: str, backward: bool) -> str | None:
    if find_spec("natten") is None:
        return f"natten is not installed (pip install --no-deps 'natten=={_VERSION}.*')"
    version = version_of("natten") or "of unknown version"
    if not version.startswith(f"{_VERSION}."):
        return f"natten {version} is installed; this adapter is for {_VERSION}"
    try:
        importlib.import_module("natten")
    except ImportError as error:
        return f"natten {version} does not work here: {error}"
    if backward and torch.device(device).type == "cpu":
        return "it has no backward pass on CPUs"
    if problem.window > min(problem.height, problem.width):
        return f"its window of {problem.window} must fit into the frame of {problem.height} x {problem.width}"
    return None


PEER = OpPeer(
    "NATTEN 0.21 from each frame to the next: window moved at borders instead of padded, no bias, no affinity",
    make,
    why_not,
)
