"""Cost-volume attention: the public function, its checks, and the choice of backend.

Shape suffixes: B batch, N heads, T frames, H and W token grid, D head width, I and J window height and
width, P = I * J displacements in row-major order (dy first).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, Literal, overload

import torch
from torch import Tensor

from emim.errors import OpInputError, UnknownNameError
from emim.naming import nearest
from emim.ops.dense import cost_volume_dense
from emim.ops.reference import cost_volume_reference

_PairBackend = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]

BACKENDS: Final[Mapping[str, _PairBackend]] = MappingProxyType(
    {"reference": cost_volume_reference, "dense": cost_volume_dense}
)
"""Backends by name. Each maps formed and scaled frame pairs to (context, affinity)."""

DEFAULT_BACKEND: Final = "dense"


@overload
def cost_volume_attention(
    q_BNTHWD: Tensor,
    k_BNTHWD: Tensor,
    v_BNTHWD: Tensor,
    rpb_NIJ: Tensor,
    *,
    backend: str | None = ...,
    return_affinity: Literal[False] = ...,
) -> Tensor: ...
@overload
def cost_volume_attention(
    q_BNTHWD: Tensor,
    k_BNTHWD: Tensor,
    v_BNTHWD: Tensor,
    rpb_NIJ: Tensor,
    *,
    backend: str | None = ...,
    return_affinity: Literal[True],
) -> tuple[Tensor, Tensor]: ...
def cost_volume_attention(
    q_BNTHWD: Tensor,
    k_BNTHWD: Tensor,
    v_BNTHWD: Tensor,
    rpb_NIJ: Tensor,
    *,
    backend: str | None = None,
    return_affinity: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Attention of each frame to a sliding window in the next frame (paper section 3.2, emim-spec 2 to 5).

    Query (t, y, x) sees the keys and values of frame t + 1 at (y + i - I // 2, x + j - J // 2) for every
    window entry (i, j), so entry p = i * J + j is the same displacement everywhere. Positions outside the
    frame hold the constant 1e-6 in every channel and take part in the softmax. The last frame has no next
    one and repeats the result of the pair (T - 2, T - 1); with T = 1 the frame is paired with itself.

    Queries are scaled by D ** -0.5 here. Affinity, softmax and aggregation run in float32 (float64 for
    float64 inputs) whatever the input dtype and autocast state.

    Args:
        q_BNTHWD: unscaled queries, [B, heads, T, H, W, head width].
        k_BNTHWD: keys, the same shape, dtype and device.
        v_BNTHWD: values, the same shape, dtype and device.
        rpb_NIJ: bias of each head and displacement, [heads, window height, window width], both odd.
        backend: "dense" (the default) or "reference" (the definition, slow).
        return_affinity: also return the raw affinity (before the softmax), the cost volume.

    Returns:
        context_BNTHWD in the dtype of q; with `return_affinity` the pair (context_BNTHWD, affinity_BNTHWP),
        the affinity in float32 (float64 for float64 inputs).

    Raises:
        OpInputError: shapes, dtypes or devices do not fit, or a window side is even.
        UnknownNameError: no such backend.
    """
    _check(q_BNTHWD, k_BNTHWD, v_BNTHWD, rpb_NIJ)
    name = DEFAULT_BACKEND if backend is None else backend
    if name not in BACKENDS:
        raise UnknownNameError(f"no backend {name!r} of cost_volume_attention; {nearest(name, BACKENDS)}")

    compute_dtype = torch.float64 if q_BNTHWD.dtype == torch.float64 else torch.float32
    T, D = q_BNTHWD.shape[2], q_BNTHWD.shape[5]
    first, second = (slice(0, -1), slice(1, None)) if T > 1 else (slice(None), slice(None))
    with torch.autocast(device_type=q_BNTHWD.device.type, enabled=False):
        context, affinity = BACKENDS[name](
            q_BNTHWD[:, :, first].to(compute_dtype) * D**-0.5,
            k_BNTHWD[:, :, second].to(compute_dtype),
            v_BNTHWD[:, :, second].to(compute_dtype),
            rpb_NIJ.to(compute_dtype),
        )
    if T > 1:
        context = _repeat_last_frame(context)
    context = context.to(q_BNTHWD.dtype)
    if not return_affinity:
        return context
    return context, _repeat_last_frame(affinity) if T > 1 else affinity


def _repeat_last_frame(x_BNTHWC: Tensor) -> Tensor:
    return torch.cat([x_BNTHWC, x_BNTHWC[:, :, -1:]], dim=2)


def _check(q: Tensor, k: Tensor, v: Tensor, rpb: Tensor) -> None:
    if q.dim() != 6 or 0 in q.shape:
        raise OpInputError(f"q must be [B, heads, T, H, W, head width] with no empty side, got {list(q.shape)}")
    for name, x in (("k", k), ("v", v)):
        if x.shape != q.shape:
            raise OpInputError(f"{name} must have the shape of q, {list(q.shape)}, got {list(x.shape)}")
        if x.dtype != q.dtype or x.device != q.device:
            raise OpInputError(f"{name} is {x.dtype} on {x.device}, but q is {q.dtype} on {q.device}")
    if not q.is_floating_point():
        raise OpInputError(f"q, k and v must be floating point, got {q.dtype}")
    if rpb.dim() != 3 or rpb.shape[0] != q.shape[1]:
        raise OpInputError(
            f"rpb must be [heads, window height, window width] with {q.shape[1]} heads, got {list(rpb.shape)}"
        )
    if rpb.shape[1] % 2 == 0 or rpb.shape[2] % 2 == 0:
        raise OpInputError(f"the window must be odd on both sides, got {rpb.shape[1]} x {rpb.shape[2]}")
    if rpb.device != q.device:
        raise OpInputError(f"rpb is on {rpb.device}, but q is on {q.device}")
