"""The motion MLP: what makes motion features out of the raw affinity (paper section 3.2; docs/method.md, step 6).

Shape suffixes: B batch, N heads, T frames, H and W token grid, P displacements of the window, U hidden units,
D features.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from emim.errors import OpInputError
from emim.ops.backends import choose
from emim.ops.common import WHY_NO_TRITON, in_row_blocks, without_autocast

__all__ = ["motion_mlp", "quick_gelu"]

if WHY_NO_TRITON is None:
    # Not on first use: operators cannot be registered while torch.compile looks on.
    from emim.ops import triton

_MOST_DISPLACEMENTS = 15 * 15
_STEEPNESS = 1.702


def quick_gelu(z: Tensor) -> Tensor:
    """Z * sigmoid(1.702 z), written with SiLU, whose value and gradient are one pass over memory each."""
    return F.silu(_STEEPNESS * z) * (1 / _STEEPNESS)


def motion_mlp(
    affinity_BNTHWP: Tensor,
    weight1_UP: Tensor,
    bias1_U: Tensor,
    weight2_DU: Tensor,
    bias2_D: Tensor,
    *,
    backend: str | None = None,
) -> Tensor:
    """Motion features of every query: a linear layer, QuickGELU, a linear layer over its affinities.

    The weights are the same for all heads and positions. The affinity is rounded to the dtype of the weights, or
    that of autocast where autocast is on. The fused kernels never store the hidden units, which take several times
    the memory of the affinity; they sum, and take QuickGELU, in float32.

    Args:
        affinity_BNTHWP: raw affinity, as `cost_volume_attention` returns it.
        weight1_UP: weight of the layer to the hidden units.
        bias1_U: its bias.
        weight2_DU: weight of the layer from the hidden units.
        bias2_D: its bias.
        backend: as of `cost_volume_attention`, and chosen in the same way: where that would be "triton" the MLP runs
            in Triton kernels, otherwise in PyTorch. To be sure of what a cost volume chose, name what
            `emim.ops.explain_backend`.

    Returns:
        motion_BNTHWD in the dtype of the weights, or that of autocast.

    Raises:
        OpInputError: shapes, dtypes or devices do not fit, or the kernels were asked for and cannot take such tensors.
        UnknownNameError: no such backend.
    """
    _check(affinity_BNTHWP, weight1_UP, bias1_U, weight2_DU, bias2_D)
    if _runs_triton(affinity_BNTHWP, weight2_DU, backend):
        dtype = _dtype_of_factors(weight2_DU)
        with without_autocast(affinity_BNTHWP.device):
            return triton.motion_mlp_triton(affinity_BNTHWP, weight1_UP, bias1_U, weight2_DU, bias2_D, dtype=dtype)

    def mlp(affinity: Tensor) -> Tensor:
        return F.linear(quick_gelu(F.linear(affinity.to(weight1_UP.dtype), weight1_UP, bias1_U)), weight2_DU, bias2_D)

    # Heads side by side, as the affinity often lies in memory and as the tokens want the features.
    motion_BTHWND = in_row_blocks(mlp, affinity_BNTHWP.permute(0, 2, 3, 4, 1, 5))
    return motion_BTHWND.permute(0, 4, 1, 2, 3, 5)


def _runs_triton(affinity: Tensor, weight2: Tensor, backend: str | None) -> bool:
    # It can run wherever the cost volume can whose queries are as wide as the features.
    like_q = weight2.new_empty((1,), dtype=_dtype_of_factors(weight2)).expand(1, 1, 1, 1, 1, weight2.shape[0])
    if choose(like_q, affinity.new_empty((1, 1, 1)), backend).backend != "triton":
        return False
    reason = _why_not_triton(affinity)
    if reason is not None and backend == "triton" and affinity.shape[0] > 0:
        raise OpInputError(f"backend 'triton' of motion_mlp cannot run: {reason}")
    return reason is None


def _why_not_triton(affinity: Tensor) -> str | None:
    if affinity.shape[0] == 0:
        return "the batch is empty"
    if affinity.dtype != torch.float32:
        return f"it takes an affinity in float32, not {affinity.dtype}"
    if affinity.shape[-1] > _MOST_DISPLACEMENTS:
        return f"the window has {affinity.shape[-1]} displacements, more than {_MOST_DISPLACEMENTS}"
    return None


def _dtype_of_factors(weight: Tensor) -> torch.dtype:
    device = weight.device.type
    if device != "meta" and torch.is_autocast_enabled(device) and weight.dtype != torch.float64:
        return torch.get_autocast_dtype(device)
    return weight.dtype


def _check(affinity: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor) -> None:
    if affinity.dim() != 6 or 0 in affinity.shape[1:]:
        raise OpInputError(
            f"the affinity must be [B, heads, T, H, W, displacements] with no empty side but the batch, "
            f"got {list(affinity.shape)}"
        )
    if weight1.dim() != 2 or weight1.shape[1] != affinity.shape[-1]:
        raise OpInputError(
            f"weight1 must be [hidden units, {affinity.shape[-1]} displacements], got {list(weight1.shape)}"
        )
    if weight2.dim() != 2 or weight2.shape[1] != weight1.shape[0]:
        raise OpInputError(f"weight2 must be [features, {weight1.shape[0]} hidden units], got {list(weight2.shape)}")
    for name, bias, weight in (("bias1", bias1, weight1), ("bias2", bias2, weight2)):
        if bias.shape != weight.shape[:1]:
            raise OpInputError(f"{name} must be [{weight.shape[0]}], got {list(bias.shape)}")
    for name, x in (("bias1", bias1), ("weight2", weight2), ("bias2", bias2)):
        if x.dtype != weight1.dtype:
            raise OpInputError(f"{name} is {x.dtype}, but weight1 is {weight1.dtype}")
    for name, x in (("weight1", weight1), ("bias1", bias1), ("weight2", weight2), ("bias2", bias2)):
        if x.device != affinity.device:
            raise OpInputError(f"{name} is on {x.device}, but the affinity is on {affinity.device}")
