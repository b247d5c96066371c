"""The compiled backend as a PyTorch operator: its registration, shapes without data, and gradient.

Registered with `torch.library`, so that `torch.compile` and `torch.export` keep it whole in one graph.

Shape suffixes: B batch, N heads, T frames, R frame pairs (T - 1, or 1 for one frame), H and W token grid, D head
width, I and J window height and width, P = I * J displacements.
"""

from __future__ import annotations

import ctypes
from typing import Any, Final

import torch
from torch import Tensor

from emim.ops.common import PAD_VALUE, being_traced, channels_together, constant_while_compiling, empty_like_rows
from emim.ops.cpp.library import library
from emim.ops.dense import gradients_by_dense

__all__ = ["ARITHMETIC", "cost_volume_cpp", "takes"]

ARITHMETIC: Final = {
    torch.float64: torch.float64,
    torch.float32: torch.float32,
    torch.bfloat16: torch.float32,
    torch.float16: torch.float32,  # not with every compiler, see `takes`
}
"""Dtypes that the library stores, and what it computes in."""

_NO_MAP: Final = (ctypes.c_int64 * 6)()


@constant_while_compiling
def takes(dtype: torch.dtype) -> bool:
    """Return True if the library, as compiled here, has this dtype."""
    return dtype in ARITHMETIC and hasattr(library(), _symbol("forward", dtype))


def cost_volume_cpp(
    q_BNTHWD: Tensor, k_BNTHWD: Tensor, v_BNTHWD: Tensor, rpb_NIJ: Tensor, *, with_affinity: bool
) -> tuple[Tensor, Tensor]:
    """Context and raw affinity of whole clips, pairing, scaling and the repeated last frame included.

    Args:
        q_BNTHWD: unscaled queries on the CPU in a dtype that it `takes`, in any memory layout.
        k_BNTHWD: keys, the same shape, dtype and device.
        v_BNTHWD: values, the same.
        rpb_NIJ: bias of each head and displacement.
        with_affinity: return the affinity. It is computed either way, and kept where gradients will want it.

    Returns:
        context_BNTHWD in the dtype and memory layout of q, and affinity_BNTHWP in the dtype that is computed in, in
        memory with the heads next to the displacements, [B, T, H, W, N, P]; empty unless it is kept.
    """
    inputs = (q_BNTHWD, k_BNTHWD, v_BNTHWD, rpb_NIJ)
    keep = with_affinity or (torch.is_grad_enabled() and any(x.requires_grad for x in inputs))
    rpb = rpb_NIJ.to(ARITHMETIC[q_BNTHWD.dtype]).contiguous()
    context, affinity = _cost_volume(q_BNTHWD, k_BNTHWD, v_BNTHWD, rpb, keep)
    return context, affinity


@torch.library.custom_op("emim::cost_volume_cpp", mutates_args=())
def _cost_volume(q: Tensor, k: Tensor, v: Tensor, rpb: Tensor, with_affinity: bool) -> tuple[Tensor, Tensor]:
    q, k, v = (channels_together(x) for x in (q, k, v))
    context, affinity = _empty_results(q, rpb, with_affinity)
    _run(
        "forward", q, rpb, _map(q), _map(k), _map(v), rpb.data_ptr(), _map(context),
        _map(affinity) if with_affinity else _NO_MAP,
    )  # fmt: skip
    return context, affinity


@torch.library.custom_op("emim::cost_volume_cpp_backward", mutates_args=())
def _cost_volume_backward(
    grad_context: Tensor, grad_affinity: Tensor | None, q: Tensor, k: Tensor, v: Tensor, rpb: Tensor, affinity: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    q, k, v, grad_context = (channels_together(x) for x in (q, k, v, grad_context))
    if grad_affinity is not None:
        grad_affinity = channels_together(grad_affinity)
    B, N, T = q.shape[:3]
    R, P = max(1, T - 1), rpb[0].numel()
    grad_q, grad_k, grad_v = (empty_like_rows(x) for x in (q, k, v))
    if T > 1:  # the last frame is no query, and the first is no key
        grad_q[:, :, -1], grad_k[:, :, 0], grad_v[:, :, 0] = 0, 0, 0
    sizes = _sizes(q, rpb)
    planes = library().emim_planes(sizes, ctypes.c_int64(rpb.element_size()))
    weights, grad_raw = affinity.new_empty((2, B, N, R, planes))
    grad_bias = affinity.new_empty((B, N, R, library().emim_bands(sizes), P))
    _run(
        "backward", q, rpb, _map(q), _map(k), _map(v), _map(affinity), _map(grad_context),
        _NO_MAP if grad_affinity is None else _map(grad_affinity), _map(grad_q), _map(grad_k), _map(grad_v),
        weights.data_ptr(), grad_raw.data_ptr(), grad_bias.data_ptr(),
    )  # fmt: skip
    return grad_q, grad_k, grad_v, grad_bias.sum((0, 2, 3)).view_as(rpb)


def _empty_results(q: Tensor, rpb: Tensor, with_affinity: bool) -> tuple[Tensor, Tensor]:
    B, N, T, H, W, _ = q.shape
    shape = (B, T, H, W, N, rpb.shape[1] * rpb.shape[2]) if with_affinity else (0,) * 6
    return empty_like_rows(q), q.new_empty(shape, dtype=ARITHMETIC[q.dtype]).permute(0, 4, 1, 2, 3, 5)


@_cost_volume.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, rpb: Tensor, with_affinity: bool) -> tuple[Tensor, Tensor]:
    return _empty_results(q, rpb, with_affinity)


@_cost_volume_backward.register_fake
def _(
    grad_context: Tensor, grad_affinity: Tensor | None, q: Tensor, k: Tensor, v: Tensor, rpb: Tensor, affinity: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return empty_like_rows(q), empty_like_rows(k), empty_like_rows(v), torch.empty_like(rpb)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, rpb, _ = inputs
    ctx.save_for_backward(q, k, v, rpb, output[1])
    ctx.set_materialize_grads(False)


def _gradient(ctx: Any, grad_context: Tensor | None, grad_affinity: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad_context is None and grad_affinity is None:
        return None, None, None, None, None
    q, k, v, rpb, affinity = ctx.saved_tensors
    if grad_context is None:
        grad_context = torch.zeros_like(q)
    if torch.is_grad_enabled() and not being_traced():  # gradients of these gradients are wanted
        return *gradients_by_dense((q, k, v, rpb), (grad_context, grad_affinity), ctx.needs_input_grad, "cpp"), None
    grads = _cost_volume_backward(grad_context, grad_affinity, q, k, v, rpb, affinity)
    return *(grad if wanted else None for grad, wanted in zip(grads, ctx.needs_input_grad, strict=False)), None


_cost_volume.register_autograd(_gradient, setup_context=_save)


def _run(what: str, q: Tensor, rpb: Tensor, *arguments: Any) -> None:
    function = getattr(library(), _symbol(what, q.dtype))
    words = [ctypes.c_void_p(x) if isinstance(x, int) else x for x in arguments]
    status = function(_sizes(q, rpb), *words, ctypes.c_double(PAD_VALUE), ctypes.c_int64(torch.get_num_threads()))
    if status:
        raise MemoryError("cost_volume_attention: no memory left for the scratch space of the cpp backend")


def _symbol(what: str, dtype: torch.dtype) -> str:
    return f"emim_{what}_{str(dtype).removeprefix('torch.')}"


def _sizes(q: Tensor, rpb: Tensor) -> ctypes.Array[ctypes.c_int64]:
    return (ctypes.c_int64 * 8)(*q.shape, *rpb.shape[1:])


def _map(x: Tensor) -> ctypes.Array[ctypes.c_int64]:
    """Address, and the strides of all dimensions but the last."""
    return (ctypes.c_int64 * 6)(x.data_ptr(), *x.stride()[:5])
