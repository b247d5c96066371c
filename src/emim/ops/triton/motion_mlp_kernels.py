"""The three Triton kernels of the fused motion MLP.

The MLP turns the P affinities of a query into D motion features, with the same weights for every query: a linear
layer to the hidden units, QuickGELU, a linear layer. A program takes a tile of queries (rows of the affinity) and
walks over the hidden units a chunk at a time; or, for the gradient of the weights, takes a chunk and walks over
tiles. Either way the hidden units of a tile exist only within the program, and are computed again where a gradient
needs them.

The affinity is rounded to the dtype of the weights; both products are summed, and QuickGELU is taken, in float32.

Weights come filled up with zeros (`emim.ops.triton.motion_mlp`), so that no load of them needs a mask: BLOCK_P and
BLOCK_D columns, and hidden units in whole chunks. A hidden unit that fills up is 0 and has no gradient.

No kernel adds into memory that another program writes, so results are the same bits from run to run.

Shape suffixes: M rows of a tile, C hidden units of a chunk, P affinities and D features of a row (both filled up to a
power of two).
"""

from __future__ import annotations

import triton
import triton.language as tl

from emim.ops.triton.cost_volume_kernels import product

__all__ = ["motion_backward_affinity_kernel", "motion_backward_weights_kernel", "motion_forward_kernel"]


@triton.jit
def _load_affinity(affinity, tile, rows, P: tl.constexpr, BLOCK_P: tl.constexpr, ROWS: tl.constexpr, dtype):
    """The affinities of a tile, rounded to `dtype`; 0 past the last row."""
    first = tile * ROWS  # 64 bits, and what is within the tile in 32
    m, p = tl.arange(0, ROWS), tl.arange(0, BLOCK_P)
    pointers = affinity + first * P + (m * P)[:, None] + p[None, :]
    return tl.load(pointers, mask=(m < rows - first)[:, None] & (p < P)[None, :], other=0.0).to(dtype)


@triton.jit
def _offsets(tile, rows, heads, tokens, x_b, x_n, x_l, ROWS: tl.constexpr):
    """Offsets of the rows of a tile in a tensor with strides for batch, head and token, and which rows there are."""
    first = tile * ROWS
    m = tl.arange(0, ROWS)
    clip = first // tokens  # of one head
    token = (first % tokens).to(tl.int32) + m
    clip = clip.to(tl.int32) + token // tokens
    token = token % tokens
    offsets = (clip // heads).to(tl.int64) * x_b + (clip % heads).to(tl.int64) * x_n + token.to(tl.int64) * x_l
    return offsets, m < rows - first


@triton.jit
def _load_features(x, offsets, inside, D: tl.constexpr, BLOCK_D: tl.constexpr):
    d = tl.arange(0, BLOCK_D)
    return tl.load(x + offsets[:, None] + d[None, :], mask=inside[:, None] & (d < D)[None, :], other=0.0)


@triton.jit
def _load_chunk(
    weight1, bias1, weight2, chunk, BLOCK_P: tl.constexpr, BLOCK_D: tl.constexpr, CHUNK: tl.constexpr
):  # fmt: skip
    """A chunk's rows of the first weight and bias, and of the second weight transposed."""
    c = chunk * CHUNK + tl.arange(0, CHUNK)
    weight1_CP = tl.load(weight1 + c[:, None] * BLOCK_P + tl.arange(0, BLOCK_P)[None, :])
    weight2_CD = tl.load(weight2 + c[:, None] * BLOCK_D + tl.arange(0, BLOCK_D)[None, :])
    return weight1_CP, tl.load(bias1 + c), weight2_CD


@triton.jit
def _quick_gelu(z):
    """Z * sigmoid(1.702 z), and its derivative."""
    gate = tl.sigmoid(1.702 * z)
    value = z * gate
    return value, gate + 1.702 * value * (1.0 - gate)


@triton.jit(do_not_specialize=["rows", "heads", "tokens"])  # not compiled anew for every batch size
def motion_forward_kernel(
    affinity, weight1, bias1, weight2, bias2, motion,
    rows, heads, tokens, o_b, o_n, o_l,
    P: tl.constexpr, BLOCK_P: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr,
    ROWS: tl.constexpr, CHUNK: tl.constexpr, CHUNKS: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    """Motion features of a tile of rows."""
    tile = tl.program_id(0).to(tl.int64)
    dtype = weight1.dtype.element_ty
    a_MP = _load_affinity(affinity, tile, rows, P, BLOCK_P, ROWS, dtype)
    motion_MD = tl.zeros([ROWS, BLOCK_D], tl.float32)
    for chunk in tl.range(0, CHUNKS):
        weight1_CP, bias1_C, weight2_CD = _load_chunk(weight1, bias1, weight2, chunk, BLOCK_P, BLOCK_D, CHUNK)
        z_MC = product(a_MP, tl.trans(weight1_CP), WIDEN) + bias1_C[None, :]
        hidden_MC, _ = _quick_gelu(z_MC)
        motion_MD += product(hidden_MC.to(dtype), weight2_CD, WIDEN)

    d = tl.arange(0, BLOCK_D)
    motion_MD += tl.load(bias2 + d)[None, :]
    offsets, inside = _offsets(tile, rows, heads, tokens, o_b, o_n, o_l, ROWS)
    pointers = motion + offsets[:, None] + d[None, :]
    tl.store(pointers, motion_MD.to(motion.dtype.element_ty), mask=inside[:, None] & (d < D)[None, :])


@triton.jit(do_not_specialize=["rows", "heads", "tokens"])  # not compiled anew for every batch size
def motion_backward_affinity_kernel(
    affinity, weight1, bias1, weight2, grad_motion, grad_affinity,
    rows, heads, tokens, g_b, g_n, g_l,
    P: tl.constexpr, BLOCK_P: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr,
    ROWS: tl.constexpr, CHUNK: tl.constexpr, CHUNKS: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    """Gradient of the affinities of a tile of rows."""
    tile = tl.program_id(0).to(tl.int64)
    dtype = weight1.dtype.element_ty
    a_MP = _load_affinity(affinity, tile, rows, P, BLOCK_P, ROWS, dtype)
    offsets, inside = _offsets(tile, rows, heads, tokens, g_b, g_n, g_l, ROWS)
    g_MD = _load_features(grad_motion, offsets, inside, D, BLOCK_D).to(dtype)
    grad_MP = tl.zeros([ROWS, BLOCK_P], tl.float32)
    for chunk in tl.range(0, CHUNKS):
        weight1_CP, bias1_C, weight2_CD = _load_chunk(weight1, bias1, weight2, chunk, BLOCK_P, BLOCK_D, CHUNK)
        z_MC = product(a_MP, tl.trans(weight1_CP), WIDEN) + bias1_C[None, :]
        _, slope_MC = _quick_gelu(z_MC)
        dz_MC = product(g_MD, tl.trans(weight2_CD), WIDEN) * slope_MC
        grad_MP += product(dz_MC.to(dtype), weight1_CP, WIDEN)

    m, p = tl.arange(0, ROWS), tl.arange(0, BLOCK_P)
    pointers = grad_affinity + tile * ROWS * P + (m * P)[:, None] + p[None, :]
    tl.store(pointers, grad_MP, mask=inside[:, None] & (p < P)[None, :])


@triton.jit(do_not_specialize=["rows", "heads", "tokens", "groups", "steps"])  # not compiled anew for every batch size
def motion_backward_weights_kernel(
    affinity, weight1, bias1, weight2, grad_motion, grad_weight1, grad_bias1, grad_weight2, grad_bias2,
    rows, heads, tokens, g_b, g_n, g_l, groups, steps, units,
    P: tl.constexpr, BLOCK_P: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr,
    ROWS: tl.constexpr, CHUNK: tl.constexpr, CHUNKS: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    """Gradients of the weights of a chunk and of both biases, summed over one group of row tiles.

    Every chunk of a group runs at about the same time, so that the rows come from the cache for all but one of them.
    Group i takes the tiles i, i + groups, i + 2 * groups and so on.
    """
    chunk = tl.program_id(0) % CHUNKS
    group = (tl.program_id(0) // CHUNKS).to(tl.int64)
    dtype = weight1.dtype.element_ty
    weight1_CP, bias1_C, weight2_CD = _load_chunk(weight1, bias1, weight2, chunk, BLOCK_P, BLOCK_D, CHUNK)
    grad_weight1_CP = tl.zeros([CHUNK, BLOCK_P], tl.float32)
    grad_bias1_C = tl.zeros([CHUNK], tl.float32)
    grad_weight2_CD = tl.zeros([CHUNK, BLOCK_D], tl.float32)
    grad_bias2_D = tl.zeros([BLOCK_D], tl.float32)
    for step in tl.range(0, steps):
        tile = group + step * groups
        a_MP = _load_affinity(affinity, tile, rows, P, BLOCK_P, ROWS, dtype)
        offsets, inside = _offsets(tile, rows, heads, tokens, g_b, g_n, g_l, ROWS)
        g_MD = _load_features(grad_motion, offsets, inside, D, BLOCK_D)
        grad_bias2_D += tl.sum(g_MD.to(tl.float32), 0)
        g_MD = g_MD.to(dtype)
        z_CM = product(weight1_CP, tl.trans(a_MP), WIDEN) + bias1_C[:, None]
        hidden_CM, slope_CM = _quick_gelu(z_CM)
        dz_CM = product(weight2_CD, tl.trans(g_MD), WIDEN) * slope_CM
        grad_bias1_C += tl.sum(dz_CM, 1)
        grad_weight1_CP += product(dz_CM.to(dtype), a_MP, WIDEN)
        grad_weight2_CD += product(hidden_CM.to(dtype), g_MD, WIDEN)

    c = chunk * CHUNK + tl.arange(0, CHUNK)
    p, d = tl.arange(0, BLOCK_P), tl.arange(0, BLOCK_D)
    row = group * units + c  # every group has sums for all hidden units
    tl.store(grad_weight1 + row[:, None] * BLOCK_P + p[None, :], grad_weight1_CP)
    tl.store(grad_bias1 + row, grad_bias1_C)
    tl.store(grad_weight2 + row[:, None] * BLOCK_D + d[None, :], grad_weight2_CD)
    tl.store(grad_bias2 + group * BLOCK_D + d, grad_bias2_D, mask=d < tl.where(chunk == 0, BLOCK_D, 0))
