"""Launching the kernels of the motion MLP: weights made ready, allocation of results, grids.

Shape suffixes: B batch, N heads, T frames, H and W token grid, P displacements, U hidden units, D features, R rows
of the affinity (B * N * T * H * W), G groups of row tiles.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
import triton
from torch import Tensor

from emim.errors import OpInputError
from emim.ops.triton import motion_mlp_kernels as motion_kernels
from emim.ops.triton import tiles
from emim.ops.triton.cost_volume import on_device
from emim.ops.triton.tiles import INTERPRETED, RowTiling, run_fastest

__all__ = ["backward", "empty_gradients", "empty_result", "forward", "motion_mlp_triton"]


def motion_mlp_triton(
    affinity_BNTHWP: Tensor,
    weight1_UP: Tensor,
    bias1_U: Tensor,
    weight2_DU: Tensor,
    bias2_D: Tensor,
    *,
    dtype: torch.dtype,
) -> Tensor:
    """Motion features of every query; the hidden units and their gradients are never stored.

    Args:
        affinity_BNTHWP: raw affinity in float32, as the cost-volume op returns it.
        weight1_UP: of the layer to the hidden units, in float32, float16 or bfloat16.
        bias1_U: of that layer.
        weight2_DU: of the layer from the hidden units.
        bias2_D: of that layer.
        dtype: of the result, float32, float16 or bfloat16. As factors of products the affinity, the weights, the
            hidden units and, in the backward pass, their gradients are rounded to it. Everything else is float32:
            sums, QuickGELU, biases, and gradients until they are rounded to the dtype of what they belong to.

    Returns:
        motion_BNTHWD, with the features of all heads of a token side by side in memory.
    """
    motion: Tensor = _motion_mlp(affinity_BNTHWP, weight1_UP, bias1_U, weight2_DU, bias2_D, dtype)
    return motion


@torch.library.custom_op("emim::motion_mlp", mutates_args=())
def _motion_mlp(
    affinity: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor, dtype: torch.dtype
) -> Tensor:
    return forward(affinity, weight1, bias1, weight2, bias2, dtype)


@torch.library.custom_op("emim::motion_mlp_backward", mutates_args=())
def _motion_mlp_backward(
    grad_motion: Tensor,
    affinity: Tensor,
    weight1: Tensor,
    bias1: Tensor,
    weight2: Tensor,
    dtype: torch.dtype,
    with_affinity: bool,
    with_weights: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    return backward(grad_motion, affinity, weight1, bias1, weight2, dtype, with_affinity, with_weights)


@_motion_mlp.register_fake
def _(affinity: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor, dtype: torch.dtype) -> Tensor:
    return empty_result(affinity, weight2.shape[0], dtype)


@_motion_mlp_backward.register_fake
def _(
    grad_motion: Tensor,
    affinity: Tensor,
    weight1: Tensor,
    bias1: Tensor,
    weight2: Tensor,
    dtype: torch.dtype,
    with_affinity: bool,
    with_weights: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    return empty_gradients(affinity, weight1, weight2, with_affinity, with_weights)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    del output
    affinity, weight1, bias1, weight2, bias2, ctx.dtype = inputs
    ctx.dtype_of_bias2 = bias2.dtype
    ctx.save_for_backward(affinity, weight1, bias1, weight2)


def _gradient(ctx: Any, grad_motion: Tensor) -> tuple[Tensor | None, ...]:
    affinity, weight1, bias1, weight2 = ctx.saved_tensors
    wanted = ctx.needs_input_grad[:5]
    grads = _motion_mlp_backward(grad_motion, affinity, weight1, bias1, weight2, ctx.dtype, wanted[0], any(wanted[1:]))
    dtypes = (affinity.dtype, weight1.dtype, bias1.dtype, weight2.dtype, ctx.dtype_of_bias2)
    return *(grad.to(dtype) if want else None for grad, dtype, want in zip(grads, dtypes, wanted, strict=True)), None


_motion_mlp.register_autograd(_gradient, setup_context=_save)


_WHOLE_CHUNKS = 128
"""Hidden units are filled up to a multiple of it, so that any chunk that divides it fits."""

_PROGRAMS = 1024
"""Approximate number of programs that sum the gradients of weights: a few for every multiprocessor of a large GPU. Each
chunk of hidden units has as many groups of rows as that allows; their sums are what the backward pass stores besides
its results, and do not grow with the input."""

_MAX_TOKENS = 2**31 - 1 - 2**16


def forward(
    affinity: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor, dtype: torch.dtype
) -> Tensor:
    """motion_BNTHWD in `dtype`, which the factors of products are rounded to."""
    affinity_RP = _rows(affinity)
    U, P, D = weight1.shape[0], weight1.shape[1], weight2.shape[0]
    motion = empty_result(affinity, D, dtype)
    weights = _filled_up(weight1, bias1, weight2, dtype)
    bias2 = F.pad(bias2.float(), (0, _block(D) - D))

    def run(tiling: RowTiling) -> None:
        motion_kernels.motion_forward_kernel[(triton.cdiv(affinity_RP.shape[0], tiling.rows),)](
            affinity_RP, *weights, bias2, motion,
            *_sizes(affinity), *_strides(motion),
            **_constants(P, D, dtype), **tiling.constants(U),
            **tiling.options,
        )  # fmt: skip

    with on_device(affinity):
        run_fastest(("motion", *_key(affinity, U, P, D, dtype)), dtype, tiles.MOTION, run)
    return motion


def backward(
    grad_motion: Tensor,
    affinity: Tensor,
    weight1: Tensor,
    bias1: Tensor,
    weight2: Tensor,
    dtype: torch.dtype,
    with_affinity: bool,
    with_weights: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of affinity, weight1, bias1, weight2 and bias2, the latter four in float32; empty unless asked for."""
    affinity_RP = _rows(affinity)
    U, P, D = weight1.shape[0], weight1.shape[1], weight2.shape[0]
    B, N, T, H, W, _ = affinity.shape
    grad_motion = grad_motion.reshape(B, N, T * H * W, D)
    if grad_motion.stride(-1) != 1:
        grad_motion = grad_motion.contiguous()
    weights = _filled_up(weight1, bias1, weight2, dtype)
    grads = empty_gradients(affinity, weight1, weight2, with_affinity, with_weights)
    shared = (*_sizes(affinity), *grad_motion.stride()[:3])
    key = _key(affinity, U, P, D, dtype)

    def run_affinity(tiling: RowTiling) -> None:
        motion_kernels.motion_backward_affinity_kernel[(triton.cdiv(affinity_RP.shape[0], tiling.rows),)](
            affinity_RP, *weights, grad_motion, grads[0], *shared,
            **_constants(P, D, dtype), **tiling.constants(U),
            **tiling.options,
        )  # fmt: skip

    def run_weights(tiling: RowTiling) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        constants = tiling.constants(U)
        row_tiles = triton.cdiv(affinity_RP.shape[0], tiling.rows)
        groups = min(row_tiles, max(1, _PROGRAMS // constants["CHUNKS"]))
        units = weights[0].shape[0]
        parts = (
            affinity.new_empty((groups, units, _block(P))),
            affinity.new_empty((groups, units)),
            affinity.new_empty((groups, units, _block(D))),
            affinity.new_empty((groups, _block(D))),
        )
        motion_kernels.motion_backward_weights_kernel[(groups * constants["CHUNKS"],)](
            affinity_RP, *weights, grad_motion, *parts, *shared,
            groups, triton.cdiv(row_tiles, groups), units,
            **_constants(P, D, dtype), **constants,
            **tiling.options,
        )  # fmt: skip
        return parts

    with on_device(affinity):
        if with_affinity:
            run_fastest(("motion affinity", *key), dtype, tiles.MOTION_AFFINITY, run_affinity)
        if with_weights:
            weight1_GUP, bias1_GU, weight2_GUD, bias2_GD = run_fastest(
                ("motion weights", *key), dtype, tiles.MOTION_WEIGHTS, run_weights
            )
            torch.sum(weight1_GUP[:, :U, :P], 0, out=grads[1])
            torch.sum(bias1_GU[:, :U], 0, out=grads[2])
            grads[3].copy_(weight2_GUD[:, :U, :D].sum(0).T)
            torch.sum(bias2_GD[:, :D], 0, out=grads[4])
    return grads


def empty_result(affinity: Tensor, D: int, dtype: torch.dtype) -> Tensor:
    """motion_BNTHWD, not yet filled; heads lie side by side, as the projection that follows wants them."""
    B, N, T, H, W, _ = affinity.shape
    return affinity.new_empty((B, T, H, W, N, D), dtype=dtype).permute(0, 4, 1, 2, 3, 5)


def empty_gradients(
    affinity: Tensor, weight1: Tensor, weight2: Tensor, with_affinity: bool, with_weights: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Allocate the results of `backward`."""
    (U, P), D = weight1.shape, weight2.shape[0]

    def empty(wanted: bool, *shape: int) -> Tensor:
        return affinity.new_empty(shape if wanted else (0,))

    return (
        empty(with_affinity, *affinity.shape),
        empty(with_weights, U, P),
        empty(with_weights, U),
        empty(with_weights, D, U),
        empty(with_weights, D),
    )


def _rows(affinity_BNTHWP: Tensor) -> Tensor:
    """affinity_RP, copied if it is not contiguous."""
    B, N, T, H, W, P = affinity_BNTHWP.shape
    if T * H * W > _MAX_TOKENS:
        raise OpInputError(f"a clip of {T} x {H} x {W} tokens is too large for the fused motion MLP")
    return affinity_BNTHWP.contiguous().view(B * N * T * H * W, P)


def _filled_up(weight1: Tensor, bias1: Tensor, weight2: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """weight1_UP, bias1_U and weight2_UD, the latter transposed, all filled up with zeros to whole blocks."""
    (U, P), D = weight1.shape, weight2.shape[0]
    more = -U % _WHOLE_CHUNKS
    return (
        F.pad(weight1.to(dtype), (0, _block(P) - P, 0, more)).contiguous(),
        F.pad(bias1.float(), (0, more)).contiguous(),
        F.pad(weight2.to(dtype).T, (0, _block(D) - D, 0, more)).contiguous(),
    )


def _block(width: int) -> int:
    return max(16, int(triton.next_power_of_2(width)))


def _sizes(affinity: Tensor) -> tuple[int, int, int]:
    B, N, T, H, W, _ = affinity.shape
    return B * N * T * H * W, N, T * H * W


def _strides(motion_BNTHWD: Tensor) -> tuple[int, ...]:
    """Strides of batch, head and token."""
    return *motion_BNTHWD.stride()[:2], motion_BNTHWD.stride(4)


def _constants(P: int, D: int, dtype: torch.dtype) -> dict[str, Any]:
    return {
        "P": P,
        "BLOCK_P": _block(P),
        "D": D,
        "BLOCK_D": _block(D),
        "WIDEN": INTERPRETED and dtype == torch.bfloat16,
    }


def _key(affinity: Tensor, U: int, P: int, D: int, dtype: torch.dtype) -> tuple[object, ...]:
    return affinity.device, dtype, U, P, D
