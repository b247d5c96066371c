"""Cost-volume attention: the public function and its checks.

Shape suffixes: B batch, N heads, T frames, H and W token grid, D head width, I and J window height and
width, P = I * J displacements in row-major order (dy first).
"""

from __future__ import annotations

from typing import Literal, overload

from torch import Tensor

from emim.errors import OpInputError
from emim.ops.backends import BACKENDS, FALLBACK, Choice, choose
from emim.ops.common import without_autocast

__all__ = ["cost_volume_attention", "explain_backend"]


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
    """Attention of each frame to a sliding window in the next frame (paper section 3.2; docs/method.md, steps 2 to 5).

    Query (t, y, x) sees the keys and values of frame t + 1 at (y + i - I // 2, x + j - J // 2) for every
    window entry (i, j), so entry p = i * J + j is the same displacement everywhere. Positions outside the
    frame hold the constant 1e-6 in every channel and take part in the softmax. The last frame has no next
    one and repeats the result of the pair (T - 2, T - 1); with T = 1 the frame is paired with itself.

    Queries are scaled by D ** -0.5 here. Affinity, softmax and aggregation run in float32 (float64 for
    float64 inputs) whatever the input dtype and autocast state; the triton backend rounds the probabilities to the
    input dtype before it multiplies them with the values.

    Args:
        q_BNTHWD: unscaled queries, [B, heads, T, H, W, head width].
        k_BNTHWD: keys, the same shape, dtype and device.
        v_BNTHWD: values, the same shape, dtype and device.
        rpb_NIJ: bias of each head and displacement, [heads, window height, window width], both odd.
        backend: "auto" (the fastest that can run), "triton" (Triton kernels, NVIDIA GPUs), "cpp" (compiled on first
            use, CPUs), "dense" (PyTorch's own operators, anywhere) or "reference" (the definition, slow). None
            leaves it to the environment variable EMIM_OPS_BACKEND, or else is "auto"; see `explain_backend`. Under
            `torch.func` "auto" is "dense"; gradients of gradients are computed by "dense" whatever the backend. Both
            warn once.
        return_affinity: also return the raw affinity (before the softmax), the cost volume.

    Returns:
        context_BNTHWD in the dtype of q; with `return_affinity` the pair (context_BNTHWD, affinity_BNTHWP),
        the affinity in float32 (float64 for float64 inputs).

    Raises:
        OpInputError: shapes, dtypes or devices do not fit, a window side is even, or the backend named cannot take
            such tensors.
        UnknownNameError: no such backend.
    """
    _check(q_BNTHWD, k_BNTHWD, v_BNTHWD, rpb_NIJ)
    name = choose(q_BNTHWD, rpb_NIJ, backend).backend
    if q_BNTHWD.shape[0] == 0:
        name = FALLBACK  # nothing to compute; it makes the empty results and their gradients
    with without_autocast(q_BNTHWD.device):
        context, affinity = BACKENDS[name].run(q_BNTHWD, k_BNTHWD, v_BNTHWD, rpb_NIJ, with_affinity=return_affinity)
    return (context, affinity) if return_affinity else context


def explain_backend(
    q_BNTHWD: Tensor, k_BNTHWD: Tensor, v_BNTHWD: Tensor, rpb_NIJ: Tensor, *, backend: str | None = None
) -> Choice:
    """Return the backend that `cost_volume_attention` runs for these arguments, and why others cannot.

    >>> x = torch.zeros(1, 1, 2, 4, 4, 8, dtype=torch.float64)
    >>> str(explain_backend(x, x, x, torch.zeros(1, 3, 3), backend="dense"))
    'dense'
    """
    _check(q_BNTHWD, k_BNTHWD, v_BNTHWD, rpb_NIJ)
    return choose(q_BNTHWD, rpb_NIJ, backend)


def _check(q: Tensor, k: Tensor, v: Tensor, rpb: Tensor) -> None:
    if q.dim() != 6 or 0 in q.shape[1:]:
        raise OpInputError(
            f"q must be [B, heads, T, H, W, head width] with no empty side but the batch, got {list(q.shape)}"
        )
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
