"""The fused motion MLP as a PyTorch operator: its registration, shapes without data, and gradient.

Registered with `torch.library`, so that `torch.compile` and `torch.export` keep it whole in one graph.
Shape suffixes as in `emim.ops.fused.motion_launch`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from emim.ops.fused import motion_launch


def motion_mlp_fused(
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
    return motion_launch.forward(affinity, weight1, bias1, weight2, bias2, dtype)


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
    return motion_launch.backward(grad_motion, affinity, weight1, bias1, weight2, dtype, with_affinity, with_weights)


@_motion_mlp.register_fake
def _(affinity: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor, dtype: torch.dtype) -> Tensor:
    return motion_launch.empty_result(affinity, weight2.shape[0], dtype)


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
    return motion_launch.empty_gradients(affinity, weight1, weight2, with_affinity, with_weights)


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
