"""Launching the kernels: checks of memory layout, allocation of results, grids.

Shape suffixes: B batch, N heads, T frames, R frame pairs (T - 1, or 1 for one frame), H and W token grid, D head
width, I and J window height and width, P = I * J displacements.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import triton
from torch import Tensor

from emim.errors import OpInputError
from emim.ops.common import being_traced, channels_together, empty_like_rows
from emim.ops.dense import gradients_by_dense
from emim.ops.triton import cost_volume_kernels as kernels
from emim.ops.triton import tiles
from emim.ops.triton.tiles import INTERPRETED, Tiling, run_fastest

__all__ = ["backward", "cost_volume_triton", "empty_results", "forward", "on_device"]


def cost_volume_triton(
    q_BNTHWD: Tensor, k_BNTHWD: Tensor, v_BNTHWD: Tensor, rpb_NIJ: Tensor, *, with_affinity: bool
) -> tuple[Tensor, Tensor]:
    """Context and raw affinity of whole clips, pairing, scaling and the repeated last frame included.

    Args:
        q_BNTHWD: unscaled queries in float32, float16 or bfloat16, in any memory layout.
        k_BNTHWD: keys, the same shape, dtype and device.
        v_BNTHWD: values, the same.
        rpb_NIJ: bias of each head and displacement.
        with_affinity: write the affinity, too; without it nothing with P entries is ever stored.

    Returns:
        context_BNTHWD in the dtype of q, and affinity_BNTHWP in float32 (empty without `with_affinity`).
        Products are summed and the softmax is taken in float32. As factors of a product the probabilities, and
        in the backward pass the gradients of affinities, are rounded to the dtype of q.
    """
    # rpb is used in float32 and densely, as the kernels index it.
    context, affinity, _ = _cost_volume(q_BNTHWD, k_BNTHWD, v_BNTHWD, rpb_NIJ.float().contiguous(), with_affinity)
    return context, affinity


@torch.library.custom_op("emim::cost_volume", mutates_args=())
def _cost_volume(q: Tensor, k: Tensor, v: Tensor, rpb: Tensor, with_affinity: bool) -> tuple[Tensor, Tensor, Tensor]:
    return forward(q, k, v, rpb, with_affinity)


@torch.library.custom_op("emim::cost_volume_backward", mutates_args=())
def _cost_volume_backward(
    grad_context: Tensor,
    grad_affinity: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rpb: Tensor,
    context: Tensor,
    lse: Tensor,
    with_rpb: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return backward(grad_context, grad_affinity, q, k, v, rpb, context, lse, with_rpb)


@_cost_volume.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, rpb: Tensor, with_affinity: bool) -> tuple[Tensor, Tensor, Tensor]:
    return empty_results(q, rpb, with_affinity)


@_cost_volume_backward.register_fake
def _(
    grad_context: Tensor,
    grad_affinity: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rpb: Tensor,
    context: Tensor,
    lse: Tensor,
    with_rpb: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    grads = [empty_like_rows(x) for x in (q, k, v)]
    return grads[0], grads[1], grads[2], torch.empty_like(rpb) if with_rpb else rpb.new_empty((0,))


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    q, k, v, rpb, ctx.with_affinity = inputs
    context, _, lse = output
    ctx.save_for_backward(q, k, v, rpb, context, lse)
    ctx.mark_non_differentiable(lse)
    ctx.set_materialize_grads(False)


def _gradient(
    ctx: Any, grad_context: Tensor | None, grad_affinity: Tensor | None, _grad_lse: Tensor | None
) -> tuple[Tensor | None, ...]:
    q, k, v, rpb, context, lse = ctx.saved_tensors
    if not ctx.with_affinity:
        grad_affinity = None
    if grad_context is None:
        if grad_affinity is None:
            return None, None, None, None, None
        grad_context = torch.zeros_like(context)
    if torch.is_grad_enabled() and not being_traced():  # gradients of these gradients are wanted
        return *gradients_by_dense((q, k, v, rpb), (grad_context, grad_affinity), ctx.needs_input_grad, "triton"), None
    with_rpb = ctx.needs_input_grad[3]
    grad_q, grad_k, grad_v, grad_rpb = _cost_volume_backward(
        grad_context, grad_affinity, q, k, v, rpb, context, lse, with_rpb
    )
    return grad_q, grad_k, grad_v, grad_rpb if with_rpb else None, None


_cost_volume.register_autograd(_gradient, setup_context=_save)


_MAX_OFFSET = 2**31 - 1


def forward(q: Tensor, k: Tensor, v: Tensor, rpb: Tensor, with_affinity: bool) -> tuple[Tensor, Tensor, Tensor]:
    """context_BNTHWD, affinity_BNTHWP (empty unless asked for) and lse_BNRHW."""
    q, k, v = (_rows_in_one_piece(x) for x in (q, k, v))
    context, affinity, lse = empty_results(q, rpb, with_affinity)
    constants = _constants(q, rpb, with_affinity)

    def run(tiling: Tiling) -> None:
        across, in_frame = tiling.tiles(*q.shape[3:5])
        kernels.forward_kernel[(_frame_pairs(q) * in_frame,)](
            q, k, v, rpb, context, affinity if with_affinity else lse, lse,
            *_sizes(q), across, in_frame,
            *_strides(q, k, v, context),
            **constants, **tiling.halo((rpb.shape[1], rpb.shape[2])),
            **tiling.options,
        )  # fmt: skip

    with on_device(q):
        run_fastest(("forward", *_key(q, rpb), with_affinity), q.dtype, tiles.FORWARD, run)
    return context, affinity, lse


def backward(
    grad_context: Tensor,
    grad_affinity: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rpb: Tensor,
    context: Tensor,
    lse: Tensor,
    with_rpb: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k, v and rpb_NIJ (empty unless asked for)."""
    q, k, v, grad_context = (_rows_in_one_piece(x) for x in (q, k, v, grad_context))
    with_affinity = grad_affinity is not None
    # A pointer must be given; where it is not wanted the kernels never read it.
    grad_affinity = lse if grad_affinity is None else grad_affinity.contiguous()
    grad_q, grad_k, grad_v = (empty_like_rows(x) for x in (q, k, v))
    delta = torch.empty_like(lse)
    constants = _constants(q, rpb, with_affinity)
    N, I, J = rpb.shape

    def run_queries(tiling: Tiling) -> Tensor:
        across, in_frame = tiling.tiles(*q.shape[3:5])
        parts = rpb.new_empty((q.shape[0], N, lse.shape[2] * in_frame, I, J) if with_rpb else (0,))
        kernels.backward_queries_kernel[(_frame_pairs(q) * in_frame,)](
            q, k, v, rpb, context, lse, grad_context, grad_affinity, grad_q, delta, parts if with_rpb else lse,
            *_sizes(q), across, in_frame,
            *_strides(q, k, v, context, grad_context, grad_q),
            **constants, **tiling.halo((I, J)),
            BLOCK_I=triton.next_power_of_2(I), BLOCK_J=triton.next_power_of_2(J), WITH_RPB=with_rpb,
            **tiling.options,
        )  # fmt: skip
        return parts

    def run_keys(tiling: Tiling) -> None:
        across, in_frame = tiling.tiles(*q.shape[3:5])
        kernels.backward_keys_kernel[(_frame_pairs(q) * in_frame,)](
            q, k, v, rpb, lse, delta, grad_context, grad_affinity, grad_k, grad_v,
            *_sizes(q), across, in_frame,
            *_strides(q, k, v, grad_context, grad_k, grad_v),
            **constants, **tiling.halo((I, J)),
            **tiling.options,
        )  # fmt: skip

    with on_device(q):
        parts = run_fastest(("queries", *_key(q, rpb), with_affinity, with_rpb), q.dtype, tiles.QUERIES, run_queries)
        run_fastest(("keys", *_key(q, rpb), with_affinity), q.dtype, tiles.KEYS, run_keys)
    return grad_q, grad_k, grad_v, parts.sum((0, 2)) if with_rpb else parts


def empty_results(q: Tensor, rpb: Tensor, with_affinity: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Allocate the results of `forward`."""
    B, N, T, H, W, _ = q.shape
    affinity_shape = (B, N, T, H, W, rpb.shape[1] * rpb.shape[2]) if with_affinity else (0,)
    return (
        empty_like_rows(q),
        q.new_empty(affinity_shape, dtype=torch.float32),
        q.new_empty((B, N, max(1, T - 1), H, W), dtype=torch.float32),
    )


def _rows_in_one_piece(x_BNTHWD: Tensor) -> Tensor:
    """x, copied if the channels of a position do not lie side by side or a frame spans 2^31 elements."""
    span = sum((size - 1) * stride for size, stride in zip(x_BNTHWD.shape[3:], x_BNTHWD.stride()[3:], strict=True))
    return channels_together(x_BNTHWD) if span <= _MAX_OFFSET else x_BNTHWD.contiguous()


def _frame_pairs(q: Tensor) -> int:
    return q.shape[0] * q.shape[1] * max(1, q.shape[2] - 1)


def _sizes(q: Tensor) -> tuple[int | float, ...]:
    _, N, T, H, W, D = q.shape
    return N, T, max(1, T - 1), H, W, float(D**-0.5)


def _strides(*tensors: Tensor) -> list[int]:
    return [stride for x in tensors for stride in x.stride()[:5]]


def _constants(q: Tensor, rpb: Tensor, with_affinity: bool) -> dict[str, Any]:
    H, W, D = q.shape[3:]
    _, I, J = rpb.shape
    if H * W * max(I * J, D) > _MAX_OFFSET:
        raise OpInputError(f"a frame of {H} x {W} tokens with window {I} x {J} is too large for the triton backend")
    return {
        "D": D,
        "BLOCK_D": max(16, triton.next_power_of_2(D)),
        "I": I,
        "J": J,
        "WITH_AFFINITY": with_affinity,
        "WIDEN": INTERPRETED and q.dtype == torch.bfloat16,
    }


def _key(q: Tensor, rpb: Tensor) -> tuple[object, ...]:
    return q.device, q.dtype, tuple(q.shape[3:]), tuple(rpb.shape[1:])


def on_device(x: Tensor) -> AbstractContextManager[object]:
    """Kernels launched within run on the GPU of x."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()
