"""Alternatives to the operator that are compiled or installed: flex_attention, NATTEN, the published CUDA kernels."""

from __future__ import annotations

import importlib
import shutil
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from emim.bench.measuring import version_of
from emim.bench.peers import (
    BARE_PRODUCTS,
    GLOBAL_ATTENTION,
    SHIFTED_PRODUCTS,
    UNFOLD,
    Op,
    OpPeer,
    OpProblem,
    Outputs,
    next_frames,
    own_backend,
    query_frames,
)
from emim.errors import ConfigError
from emim.ops import BACKENDS
from emim.ops.common import PAD_VALUE

__all__ = ["FLEX_ATTENTION", "NATTEN", "op_peers", "published_kernels"]


def _make_flex_attention(problem: OpProblem) -> Op:
    """Compiled for the sizes of the task on its first call."""
    H, W, M = problem.height, problem.width, problem.window
    compiled = torch.compile(flex_attention, dynamic=False)

    def op(q: Tensor, k: Tensor, v: Tensor, rpb: Tensor) -> Outputs:
        B, N, T, _, _, D = q.shape

        def of_frames(x_BNTHWD: Tensor) -> Tensor:
            return x_BNTHWD.permute(0, 2, 1, 3, 4, 5).reshape(B * T, N, H * W, D)

        def in_window(b: Tensor, n: Tensor, query: Tensor, key: Tensor) -> Tensor:
            dy, dx = key // W - query // W, key % W - query % W
            return (dy >= -(M // 2)) & (dy <= M // 2) & (dx >= -(M // 2)) & (dx <= M // 2)

        def with_bias(score: Tensor, b: Tensor, n: Tensor, query: Tensor, key: Tensor) -> Tensor:
            # Out of the window the index is held within the table; the mask drops the score.
            dy = (key // W - query // W + M // 2).clamp(0, M - 1)
            dx = (key % W - query % W + M // 2).clamp(0, M - 1)
            return score + rpb[n, dy, dx]

        if q.device not in masks:
            masks[q.device] = create_block_mask(in_window, None, None, H * W, H * W, device=str(q.device))
        context = compiled(
            of_frames(query_frames(q)),
            of_frames(next_frames(k)),
            of_frames(next_frames(v)),
            score_mod=with_bias,
            block_mask=masks[q.device],
        )
        return {"context": context.view(B, T, N, H, W, D).permute(0, 2, 1, 3, 4, 5)}

    masks: dict[torch.device, BlockMask] = {}
    return cast(Op, op)


def _why_no_flex_attention(problem: OpProblem, device: str, backward: bool) -> str | None:
    on_gpu = torch.device(device).type == "cuda"
    if backward and not on_gpu:
        return "it has no backward pass on CPUs"
    if not on_gpu and not any(map(shutil.which, ("c++", "g++", "clang++"))):
        return "it is compiled, and there is no C++ compiler here"
    return None


FLEX_ATTENTION = OpPeer(
    "flex_attention, compiled: the window in the next frame and the bias; borders masked, no affinity",
    _make_flex_attention,
    _why_no_flex_attention,
    compiles=True,
)


_NATTEN_VERSION = "0.21"


def _make_natten(problem: OpProblem) -> Op:
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


def _why_no_natten(problem: OpProblem, device: str, backward: bool) -> str | None:
    if find_spec("natten") is None:
        return f"natten is not installed (pip install --no-deps 'natten=={_NATTEN_VERSION}.*')"
    version = version_of("natten") or "of unknown version"
    if not version.startswith(f"{_NATTEN_VERSION}."):
        return f"natten {version} is installed; this adapter is for {_NATTEN_VERSION}"
    try:
        importlib.import_module("natten")
    except ImportError as error:
        return f"natten {version} does not work here: {error}"
    if backward and torch.device(device).type == "cpu":
        return "it has no backward pass on CPUs"
    if problem.window > min(problem.height, problem.width):
        return f"its window of {problem.window} must fit into the frame of {problem.height} x {problem.width}"
    return None


NATTEN = OpPeer(
    "NATTEN 0.21 from each frame to the next: window moved at borders instead of padded, no bias, no affinity",
    _make_natten,
    _why_no_natten,
)


_EXTENSIONS = ("nattenqkrpb", "nattenav")


def published_kernels(source: Path | None) -> OpPeer:
    """The adapter for a folder of sources."""

    def make(problem: OpProblem) -> Op:
        del problem
        assert source is not None
        return _operator(*(_build(name, source) for name in _EXTENSIONS))

    def why_not(problem: OpProblem, device: str, backward: bool) -> str | None:
        del problem, backward
        return _why_no_published_kernels(source, device)

    return OpPeer("the published CUDA kernels, built here from source", make, why_not, same_values=True)


def _why_no_published_kernels(source: Path | None, device: str) -> str | None:
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


def op_peers(published_source: Path | None = None) -> dict[str, OpPeer]:
    """The candidates.

    Args:
        published_source: folder of the published CUDA kernels, or None.
    """
    return {
        **{name: own_backend(name) for name in BACKENDS},
        "unfold": UNFOLD,
        "bare-products": BARE_PRODUCTS,
        "shifted-products": SHIFTED_PRODUCTS,
        "global-sdpa": GLOBAL_ATTENTION,
        "flex-attention": FLEX_ATTENTION,
        "natten": NATTEN,
        "published-cuda": published_kernels(published_source),
    }
