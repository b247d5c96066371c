"""`flex_attention` of PyTorch, compiled: the window in the next frame as a block mask, the bias as a score function.

Positions outside the frame are masked instead of padded, and the affinity is not returned; the rest is the same.
Shape suffixes as in `emim.bench.peers.problem`.
"""

from __future__ import annotations

import shutil
from typing import cast

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from emim.bench.peers.problem import Op, OpPeer, OpProblem, Outputs, next_frames, query_frames


def make(problem: OpProblem) -> Op:
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


def why_not(problem: OpProblem, device: str, backward: bool) -> str | None:
    on_gpu = torch.device(device).type == "cuda"
    if backward and not on_gpu:
        return "it has no backward pass on CPUs"
    if not on_gpu and not any(map(shutil.which, ("c++", "g++", "clang++"))):
        return "it is compiled, and there is no C++ compiler here"
    return None


PEER = OpPeer(
    "flex_attention, compiled: the window in the next frame and the bias; borders masked, no affinity",
    make,
    why_not,
    compiles=True,
)
