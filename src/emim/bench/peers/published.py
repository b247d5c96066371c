"""The published CUDA kernels, from a copy of their source that the user has; they come with no licence to pass on.

What is expected of the folder (video_classification/slowfast/nat_with_rpb of the published repository): two
extensions, each a `.cpp` and a `_kernel.cu` file, that export

    nattenqkrpb: forward(query, padded key, bias) -> [affinity]; backward(d affinity, query, padded key) -> 3 gradients
    nattenav:    forward(weights, padded value) -> [context]; backward(d context, weights, padded value) -> 2 gradients

on [B, N, H, W, D] with [N, I, J] and I * J entries last. Built and loaded on first use. Written without a GPU at hand:
what does not fit makes the adapter fail, or its values differ from the definition's, which is checked.
Shape suffixes as in `emim.bench.peers.problem`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from emim.bench.peers.problem import Op, OpPeer, OpProblem, Outputs, next_frames, query_frames
from emim.errors import ConfigError
from emim.ops.common import PAD_VALUE

_EXTENSIONS = ("nattenqkrpb", "nattenav")


def peer(source: Path | None) -> OpPeer:
    """The adapter for a folder of sources."""

    def make(problem: OpProblem) -> Op:
        del problem
        assert source is not None
        return _operator(*(_build(name, source) for name in _EXTENSIONS))

    def why_not(problem: OpProblem, device: str, backward: bool) -> str | None:
        del problem, backward
        return _why_not(source, device)

    return OpPeer("the published CUDA kernels, built here from source", make, why_not, same_values=True)


def _why_not(source: Path | None, device: str) -> str | None:
    if source is None:
        return "their source was not given (--published-source DIR)"
    if not source.is_dir():
        raise ConfigError(f"--published-source {source}: no such folder")
    missing = [path.name for name in _EXTENSIONS for path in _files(name, source) if not path.is_file()]
    if missing:
        raise ConfigError(f"--published-source {source}: has no {', '.join(missing)}")
    if torch.device(device).type != "cuda":
        return "they need a GPU"
    from torch.utils.cpp_extension import CUDA_HOME

    if CUDA_HOME is None:
        return "they are built with nvcc, which is not found (set CUDA_HOME)"
    return None


def _files(name: str, source: Path) -> tuple[Path, Path]:
    return source / f"{name}_cuda.cpp", source / f"{name}_cuda_kernel.cu"


def _build(name: str, source: Path) -> Any:
    from torch.utils.cpp_extension import load

    extension = load(f"{name}_published", [str(path) for path in _files(name, source)])
    for entry in ("forward", "backward"):
        if not hasattr(extension, entry):
            raise ConfigError(f"{source}: {name} has been built, but exports no {entry!r}")
    return extension


def _operator(products: Any, aggregation: Any) -> Op:
    class Affinity(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, q: Tensor, k: Tensor, rpb: Tensor) -> Tensor:
            ctx.save_for_backward(q, k)
            affinity: Tensor = products.forward(q, k, rpb)[0]
            return affinity

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
            return tuple(products.backward(grad.contiguous(), *ctx.saved_tensors))

    class Aggregation(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, weight: Tensor, v: Tensor) -> Tensor:
            ctx.save_for_backward(weight, v)
            context: Tensor = aggregation.forward(weight, v)[0]
            return context

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
            return tuple(aggregation.backward(grad.contiguous(), *ctx.saved_tensors))

    def op(q: Tensor, k: Tensor, v: Tensor, rpb: Tensor) -> Outputs:
        B, N, T, H, W, D = q.shape
        _, I, J = rpb.shape

        def of_frames(x_BNTHWD: Tensor) -> Tensor:
            return x_BNTHWD.transpose(1, 2).reshape(B * T, N, H, W, D).contiguous()

        def of_clips(x: Tensor) -> Tensor:
            return x.view(B, T, N, H, W, -1).transpose(1, 2)

        margins = (0, 0, J // 2, J // 2, I // 2, I // 2)
        keys, values = (F.pad(of_frames(next_frames(x)), margins, value=PAD_VALUE) for x in (k, v))
        affinity = Affinity.apply(of_frames(query_frames(q)) * D**-0.5, keys, rpb.to(q.dtype).contiguous())  # type: ignore[no-untyped-call]
        weight = affinity.softmax(-1, dtype=torch.float32).to(q.dtype)
        return {
            "context": of_clips(Aggregation.apply(weight, values)),  # type: ignore[no-untyped-call]
            "affinity": of_clips(affinity),
        }

    return op
