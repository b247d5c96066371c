"""The fused backend as a PyTorch operator: its registration, shapes without data, and gradient.

Registered with `torch.library`, so that `torch.compile` and `torch.export` keep it whole in one graph.
Shape suffixes as in `emim.ops.fused.launch`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from emim.ops.fused import launch
from emim.ops.layout import empty_like_rows


def cost_volume_fused(
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
    return launch.forward(q, k, v, rpb, with_affinity)


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
    return launch.backward(grad_context, grad_affinity, q, k, v, rpb, context, lse, with_rpb)


@_cost_volume.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, rpb: Tensor, with_affinity: bool) -> tuple[Tensor, Tensor, Tensor]:
    return launch.empty_results(q, rpb, with_affinity)


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
    with_rpb = ctx.needs_input_grad[3]
    grad_q, grad_k, grad_v, grad_rpb = _cost_volume_backward(
        grad_context, grad_affinity, q, k, v, rpb, context, lse, with_rpb
    )
    return grad_q, grad_k, grad_v, grad_rpb if with_rpb else None, None


_cost_volume.register_autograd(_gradient, setup_context=_save)
