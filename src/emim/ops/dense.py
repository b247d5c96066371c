"""Cost-volume attention from dense matrix products and two gathers.

The published code copies every key's neighbourhood (P copies of the key map) and multiplies with that.
Here a band of query rows is multiplied with *all* keys in reach of the band, one plain matrix product, and
the P entries of each query's window are gathered out of it. On the way back the P weights are gathered into
a dense row over the same keys, and a second plain product aggregates the values. More arithmetic than
strictly needed, but all of it in matrix products, and nothing of size P * D is ever stored.

Positions outside the frame hold one constant, so they need neither padded maps nor gathers of their own: one
extra key holds the constant, and all such entries of a window point at it.

Shape suffixes: B batch, N heads, T frame pairs, H and W token grid, D head width, I and J window height
and width, P = I * J displacements in row-major order (dy first), Q queries of a band, K keys in reach of it,
Z = B * N * T.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from emim.ops.common import PAD_VALUE, on_frame_pairs, warn_once, without_autocast

__all__ = ["cost_volume_dense", "gradients_by_dense"]

_QUERIES_PER_BAND = 256
"""Bands are cut so that they hold about this many queries. Larger bands waste arithmetic on keys out of
reach, smaller ones make the matrix products small. Grids up to 16 x 16 are one band."""


def cost_volume_dense(q_BNTHWD: Tensor, k_BNTHWD: Tensor, v_BNTHWD: Tensor, rpb_NIJ: Tensor) -> tuple[Tensor, Tensor]:
    """Same contract as `emim.ops.reference.cost_volume_reference`."""
    B, N, T, H, W, D = q_BNTHWD.shape
    _, I, J = rpb_NIJ.shape
    Z, P = B * N * T, I * J
    q_ZHWD = q_BNTHWD.reshape(Z, H, W, D)
    k_ZHWD = k_BNTHWD.reshape(Z, H, W, D)
    v_ZHWD = v_BNTHWD.reshape(Z, H, W, D)
    outside_Z1D = k_ZHWD.new_full((1, 1, D), PAD_VALUE).expand(Z, 1, D)

    contexts, affinities = [], []
    bands = _bands(H, W, I)
    for top, bottom in bands:
        key_top, key_bottom = (0, H) if len(bands) == 1 else (max(0, top - I // 2), min(H, bottom + I // 2))
        queries, keys = (bottom - top) * W, (key_bottom - key_top) * W
        key_of_entry_QP, entry_of_key_QK = _window_tables(top, bottom, key_top, key_bottom, W, I, J, q_BNTHWD.device)

        q_ZQD = q_ZHWD[:, top:bottom].reshape(Z, queries, D)
        k_ZKD = torch.cat([k_ZHWD[:, key_top:key_bottom].reshape(Z, keys, D), outside_Z1D], dim=1)
        v_ZKD = v_ZHWD[:, key_top:key_bottom].reshape(Z, keys, D)

        all_pairs_ZQK = q_ZQD @ k_ZKD.transpose(1, 2)
        raw_ZQP = all_pairs_ZQK.gather(2, key_of_entry_QP.expand(Z, queries, P))
        affinity_BNTQP = raw_ZQP.view(B, N, T, queries, P) + rpb_NIJ.reshape(1, N, 1, 1, P)

        weight_ZQP = affinity_BNTQP.softmax(-1).view(Z, queries, P)
        weight_and_zero = F.pad(weight_ZQP, (0, 1))  # entry P: the weight of a key out of the window
        weight_ZQK = weight_and_zero.gather(2, entry_of_key_QK.expand(Z, queries, keys))
        outside_QP = (key_of_entry_QP == keys).to(weight_ZQP.dtype)
        outside_mass_ZQ1 = (weight_ZQP * outside_QP).sum(-1, keepdim=True)
        context_ZQD = weight_ZQK @ v_ZKD + outside_mass_ZQ1 * PAD_VALUE

        contexts.append(context_ZQD.view(B, N, T, bottom - top, W, D))
        affinities.append(affinity_BNTQP.view(B, N, T, bottom - top, W, P))
    if len(contexts) == 1:
        return contexts[0], affinities[0]
    return torch.cat(contexts, dim=3), torch.cat(affinities, dim=3)


def _bands(H: int, W: int, I: int) -> list[tuple[int, int]]:
    """First row and end of each band."""
    if isinstance(H, torch.SymInt) or isinstance(W, torch.SymInt):
        return [(0, H)]  # an exported graph leaves these sizes open, so its shape cannot depend on them
    height = H if H * W <= _QUERIES_PER_BAND else min(H, max(I, _QUERIES_PER_BAND // W, 1))
    return [(top, min(H, top + height)) for top in range(0, H, height)]


def _window_tables(
    top: int, bottom: int, key_top: int, key_bottom: int, W: int, I: int, J: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Map each window entry to its key, and each key to its window entry.

    Returns:
        key_of_entry_QP: index of the key among the band's keys; the number of keys for a position outside
            the frame.
        entry_of_key_QK: row-major displacement of the key within the query's window; P where it is out of it.
    """
    x_W = torch.arange(W, device=device)
    query_y_h = torch.arange(top, bottom, device=device)
    key_y_k = torch.arange(key_top, key_bottom, device=device)
    queries, keys = (bottom - top) * W, (key_bottom - key_top) * W

    entry_y_hI = query_y_h[:, None] + torch.arange(I, device=device) - I // 2
    entry_x_WJ = x_W[:, None] + torch.arange(J, device=device) - J // 2
    inside = ((entry_y_hI >= key_top) & (entry_y_hI < key_bottom))[:, None, :, None] & (
        (entry_x_WJ >= 0) & (entry_x_WJ < W)
    )[None, :, None, :]
    key_index = (entry_y_hI - key_top)[:, None, :, None] * W + entry_x_WJ[None, :, None, :]
    key_of_entry_QP = torch.where(inside, key_index, keys).reshape(queries, I * J)

    dy_hk = key_y_k[None, :] - query_y_h[:, None] + I // 2
    dx_WW = x_W[None, :] - x_W[:, None] + J // 2
    within = ((dy_hk >= 0) & (dy_hk < I))[:, None, :, None] & ((dx_WW >= 0) & (dx_WW < J))[None, :, None, :]
    entry = dy_hk[:, None, :, None] * J + dx_WW[None, :, None, :]
    entry_of_key_QK = torch.where(within, entry, I * J).reshape(queries, keys)
    return key_of_entry_QP, entry_of_key_QK


def gradients_by_dense(
    inputs: tuple[Tensor, Tensor, Tensor, Tensor],
    grad_outputs: tuple[Tensor, Tensor | None],
    wanted: Sequence[bool],
    backend: str,
) -> list[Tensor | None]:
    """Gradients of q, k, v and rpb that have gradients themselves, for backends whose own have none; warns once.

    Args:
        inputs: q, k, v and rpb as the operator was called with.
        grad_outputs: gradients of context and affinity, None for zeros.
        wanted: True for each input whose gradient is wanted.
        backend: its name, for the warning.
    """
    warn_once(f"gradients of gradients: backend {backend!r} has none; using those of 'dense', which is slower")
    with without_autocast(inputs[0].device):
        outputs = on_frame_pairs(cost_volume_dense, *inputs, with_affinity=grad_outputs[1] is not None)
    pairs = [(output, grad) for output, grad in zip(outputs, grad_outputs, strict=True) if grad is not None]
    grads = iter(
        torch.autograd.grad(
            [output for output, _ in pairs],
            [x for x, want in zip(inputs, wanted, strict=False) if want],
            [grad for _, grad in pairs],
            create_graph=True,
            allow_unused=True,
        )
    )
    return [next(grads) if want else None for _, want in zip(inputs, wanted, strict=False)]
