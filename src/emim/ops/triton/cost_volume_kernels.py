"""The three Triton kernels of fused cost-volume attention.

Every kernel gives one program a tile of TY x TX positions of one frame and walks over the halo of that tile in the
other frame of the pair: the (TY + I - 1) x (TX + J - 1) positions that its windows reach, KR rows at a time, each
row filled up to HX columns, a power of two. A tile and a part of its halo make one matrix product on the tensor
cores; entries in no query's window are masked out. Nothing with P entries leaves a program, except the
raw affinity where it is asked for.

A halo position minus its tile, (r, c), and a tile position (a, b) differ by (r - a, c - b), which are the row and
column of the window entry when queries look at their keys. When keys look back at their queries, the order turns
round: (I - 1 - (r - a), J - 1 - (c - b)).

Positions outside the frame hold PAD in every channel of keys and values, as loads that fall outside return it, and
so take part in the softmax like any other. Queries outside the frame are zeros and never stored.

No kernel adds into memory that another program writes, so results are the same bits from run to run.

Shape suffixes: M tile positions, K positions of a part of the halo, D head width (filled up to a power of two).
Pair t is the queries of frame t and the keys of frame t + 1, or of frame 0 in a clip of one frame. The last frame of
several repeats the result of the last pair: all of its rows, `repeated_rows`, while for other pairs there are none.
(A number of rows and not a truth value, as Triton's interpreter cannot spread a scalar truth value over a block.)
"""

from __future__ import annotations

import triton
import triton.language as tl

from emim.ops.common import PAD_VALUE

__all__ = ["PAD", "backward_keys_kernel", "backward_queries_kernel", "forward_kernel", "product"]

PAD = tl.constexpr(PAD_VALUE)


@triton.jit
def _place(tiles_x, tiles, pairs, heads):
    """Batch, head, pair and tile of this program. Tiles of one frame come one after the other, for the cache."""
    program = tl.program_id(0)
    tile = program % tiles
    frame = program // tiles
    pair = frame % pairs
    batch_head = frame // pairs
    return (batch_head // heads).to(tl.int64), batch_head % heads, pair, tile // tiles_x, tile % tiles_x


@triton.jit
def _load_rows(base, y, x, stride_y, stride_x, inside, other, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """Channels of the positions (y, x), `other` where they are not inside the frame."""
    d = tl.arange(0, BLOCK_D)
    pointers = base + (y * stride_y + x * stride_x)[:, None] + d[None, :]
    return tl.load(pointers, mask=inside[:, None] & (d < D)[None, :], other=other)


@triton.jit
def _store_rows(base, rows, y, x, stride_y, stride_x, inside, D: tl.constexpr, BLOCK_D: tl.constexpr):
    d = tl.arange(0, BLOCK_D)
    pointers = base + (y * stride_y + x * stride_x)[:, None] + d[None, :]
    tl.store(pointers, rows.to(base.dtype.element_ty), mask=inside[:, None] & (d < D)[None, :])


@triton.jit
def _window_entry(halo_y, halo_x, tile_y, tile_x, I: tl.constexpr, J: tl.constexpr):
    """True where each pair of a tile position (first axis) and a halo position is within the window, and its entry."""
    dy = halo_y[None, :] - tile_y[:, None]
    dx = halo_x[None, :] - tile_x[:, None]
    within = (dy >= 0) & (dy < I) & (dx >= 0) & (dx < J)
    return within, dy * J + dx


@triton.jit
def product(a, b, WIDEN: tl.constexpr):
    """A @ b, summed in float32. WIDEN is for Triton's interpreter, which cannot multiply bfloat16."""
    if WIDEN:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, input_precision="ieee")


@triton.jit
def forward_kernel(
    q, k, v, rpb, context, affinity, lse,
    heads, frames, pairs, H, W, scale, tiles_x, tiles,
    q_b, q_n, q_t, q_y, q_x,
    k_b, k_n, k_t, k_y, k_x,
    v_b, v_n, v_t, v_y, v_x,
    o_b, o_n, o_t, o_y, o_x,
    D: tl.constexpr, BLOCK_D: tl.constexpr, I: tl.constexpr, J: tl.constexpr,
    TY: tl.constexpr, TX: tl.constexpr, HX: tl.constexpr, KR: tl.constexpr, PARTS: tl.constexpr,
    WITH_AFFINITY: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    """Context, log-sum-exp of the affinities of each query, and the affinities themselves if asked for."""
    batch, head, pair, tile_row, tile_column = _place(tiles_x, tiles, pairs, heads)
    key_frame = tl.minimum(pair + 1, frames - 1)
    repeated_rows = tl.where(pair + 2 == frames, H, 0)

    m = tl.arange(0, TY * TX)
    tile_y, tile_x = m // TX, m % TX
    query_y, query_x = tile_row * TY + tile_y, tile_column * TX + tile_x
    query_inside = (query_y < H) & (query_x < W)
    query_repeated = query_inside & (query_y < repeated_rows)
    q_MD = _load_rows(
        q + batch * q_b + head.to(tl.int64) * q_n + pair.to(tl.int64) * q_t,
        query_y, query_x, q_y, q_x, query_inside, 0.0, D, BLOCK_D,
    )  # fmt: skip
    k += batch * k_b + head.to(tl.int64) * k_n + key_frame.to(tl.int64) * k_t
    v += batch * v_b + head.to(tl.int64) * v_n + key_frame.to(tl.int64) * v_t
    rpb += head * (I * J)
    position = query_y * W + query_x
    affinity += ((batch * heads + head) * frames + pair) * H * W * (I * J)
    repeated_frame = H * W * (I * J)

    n = tl.arange(0, KR * HX)
    top_M = tl.full([TY * TX], -1e30, tl.float32)  # finite, so that rows still without an entry stay free of NaN
    sum_M = tl.zeros([TY * TX], tl.float32)
    context_MD = tl.zeros([TY * TX, BLOCK_D], tl.float32)
    for part in tl.range(0, PARTS):
        halo_y, halo_x = part * KR + n // HX, n % HX
        key_y, key_x = tile_row * TY - I // 2 + halo_y, tile_column * TX - J // 2 + halo_x
        key_inside = (key_y >= 0) & (key_y < H) & (key_x >= 0) & (key_x < W)
        within, entry = _window_entry(halo_y, halo_x, tile_y, tile_x, I, J)

        k_KD = _load_rows(k, key_y, key_x, k_y, k_x, key_inside, PAD, D, BLOCK_D)
        bias_MK = tl.load(rpb + entry, mask=within, other=0.0)
        s_MK = product(q_MD, tl.trans(k_KD), WIDEN) * scale + bias_MK
        if WITH_AFFINITY:
            pointers = affinity + position[:, None] * (I * J) + entry
            tl.store(pointers, s_MK, mask=within & query_inside[:, None])
            tl.store(pointers + repeated_frame, s_MK, mask=within & query_repeated[:, None])
        s_MK = tl.where(within, s_MK, float("-inf"))

        new_top_M = tl.maximum(top_M, tl.max(s_MK, 1))
        p_MK = tl.exp(s_MK - new_top_M[:, None])
        shrink_M = tl.exp(top_M - new_top_M)
        sum_M = sum_M * shrink_M + tl.sum(p_MK, 1)
        v_KD = _load_rows(v, key_y, key_x, v_y, v_x, key_inside, PAD, D, BLOCK_D)
        context_MD = context_MD * shrink_M[:, None]
        context_MD += product(p_MK.to(v_KD.dtype), v_KD, WIDEN)
        top_M = new_top_M

    tl.store(lse + ((batch * heads + head) * pairs + pair) * H * W + position, top_M + tl.log(sum_M), mask=query_inside)
    context_MD = context_MD / sum_M[:, None]
    context += batch * o_b + head.to(tl.int64) * o_n + pair.to(tl.int64) * o_t
    _store_rows(context, context_MD, query_y, query_x, o_y, o_x, query_inside, D, BLOCK_D)
    _store_rows(context + o_t, context_MD, query_y, query_x, o_y, o_x, query_repeated, D, BLOCK_D)


@triton.jit
def _sum_of_entries(
    ds_MK, part, tile_x,
    I: tl.constexpr, J: tl.constexpr, BLOCK_I: tl.constexpr, BLOCK_J: tl.constexpr,
    TY: tl.constexpr, TX: tl.constexpr, HX: tl.constexpr, KR: tl.constexpr,
):  # fmt: skip
    """Sum of ds over the queries of the tile for each window entry, [BLOCK_I, BLOCK_J].

    Entry (i, j) of the query (a, b) lies at row a + i - part * KR and column b + j of the part. First columns are
    gathered by j and summed over b. What is left is small enough for rows to be picked by a mask; Triton 3.7 fails to
    compile gathers of fewer entries than there are threads.
    """
    j = tl.arange(0, BLOCK_J)
    column = tl.minimum(tile_x[:, None] + j[None, :], HX - 1)
    column = tl.broadcast_to(column[:, None, :], (TY * TX, KR, BLOCK_J))
    by_j = tl.gather(tl.reshape(ds_MK, (TY * TX, KR, HX)), column, 2)
    by_j = tl.reshape(tl.sum(tl.reshape(by_j, (TY, TX, KR, BLOCK_J)), 1), (TY * KR, BLOCK_J))

    row = tl.arange(0, TY * KR)
    i_of_row = row % KR + part * KR - row // KR
    mask = i_of_row[:, None] == tl.arange(0, BLOCK_I)[None, :]
    return tl.sum(tl.where(mask[:, :, None], by_j[:, None, :], 0.0), 0)


@triton.jit
def backward_queries_kernel(
    q, k, v, rpb, context, lse, grad_context, grad_affinity, grad_q, delta, grad_rpb,
    heads, frames, pairs, H, W, scale, tiles_x, tiles,
    q_b, q_n, q_t, q_y, q_x,
    k_b, k_n, k_t, k_y, k_x,
    v_b, v_n, v_t, v_y, v_x,
    o_b, o_n, o_t, o_y, o_x,
    g_b, g_n, g_t, g_y, g_x,
    dq_b, dq_n, dq_t, dq_y, dq_x,
    D: tl.constexpr, BLOCK_D: tl.constexpr, I: tl.constexpr, J: tl.constexpr,
    TY: tl.constexpr, TX: tl.constexpr, HX: tl.constexpr, KR: tl.constexpr, PARTS: tl.constexpr,
    BLOCK_I: tl.constexpr, BLOCK_J: tl.constexpr,
    WITH_AFFINITY: tl.constexpr, WITH_RPB: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    """Gradient of the queries, and of the bias summed over the tile.

    Also writes delta, the product of each query's context and its gradient, which the kernel of keys needs.
    """
    batch, head, pair, tile_row, tile_column = _place(tiles_x, tiles, pairs, heads)
    key_frame = tl.minimum(pair + 1, frames - 1)
    repeated_rows = tl.where(pair + 2 == frames, H, 0)

    m = tl.arange(0, TY * TX)
    tile_y, tile_x = m // TX, m % TX
    query_y, query_x = tile_row * TY + tile_y, tile_column * TX + tile_x
    query_inside = (query_y < H) & (query_x < W)
    query_repeated = query_inside & (query_y < repeated_rows)
    position = query_y * W + query_x
    q_MD = _load_rows(
        q + batch * q_b + head.to(tl.int64) * q_n + pair.to(tl.int64) * q_t,
        query_y, query_x, q_y, q_x, query_inside, 0.0, D, BLOCK_D,
    )  # fmt: skip
    context_MD = _load_rows(
        context + batch * o_b + head.to(tl.int64) * o_n + pair.to(tl.int64) * o_t,
        query_y, query_x, o_y, o_x, query_inside, 0.0, D, BLOCK_D,
    )  # fmt: skip
    grad_context += batch * g_b + head.to(tl.int64) * g_n + pair.to(tl.int64) * g_t
    g_MD = _load_rows(grad_context, query_y, query_x, g_y, g_x, query_inside, 0.0, D, BLOCK_D).to(tl.float32)
    g_MD += _load_rows(grad_context + g_t, query_y, query_x, g_y, g_x, query_repeated, 0.0, D, BLOCK_D)
    delta_M = tl.sum(g_MD * context_MD.to(tl.float32), 1)
    frame_of_pairs = ((batch * heads + head) * pairs + pair) * H * W
    tl.store(delta + frame_of_pairs + position, delta_M, mask=query_inside)
    lse_M = tl.load(lse + frame_of_pairs + position, mask=query_inside, other=0.0)

    k += batch * k_b + head.to(tl.int64) * k_n + key_frame.to(tl.int64) * k_t
    v += batch * v_b + head.to(tl.int64) * v_n + key_frame.to(tl.int64) * v_t
    rpb += head * (I * J)
    grad_affinity += ((batch * heads + head) * frames + pair) * H * W * (I * J)
    repeated_frame = H * W * (I * J)

    g_MD = g_MD.to(q_MD.dtype)
    n = tl.arange(0, KR * HX)
    grad_q_MD = tl.zeros([TY * TX, BLOCK_D], tl.float32)
    grad_rpb_IJ = tl.zeros([BLOCK_I, BLOCK_J], tl.float32)
    for part in tl.range(0, PARTS):
        halo_y, halo_x = part * KR + n // HX, n % HX
        key_y, key_x = tile_row * TY - I // 2 + halo_y, tile_column * TX - J // 2 + halo_x
        key_inside = (key_y >= 0) & (key_y < H) & (key_x >= 0) & (key_x < W)
        within, entry = _window_entry(halo_y, halo_x, tile_y, tile_x, I, J)
        within = within & query_inside[:, None]

        k_KD = _load_rows(k, key_y, key_x, k_y, k_x, key_inside, PAD, D, BLOCK_D)
        v_KD = _load_rows(v, key_y, key_x, v_y, v_x, key_inside, PAD, D, BLOCK_D)
        bias_MK = tl.load(rpb + entry, mask=within, other=0.0)
        s_MK = product(q_MD, tl.trans(k_KD), WIDEN) * scale + bias_MK
        p_MK = tl.exp(tl.where(within, s_MK, float("-inf")) - lse_M[:, None])
        dp_MK = product(g_MD, tl.trans(v_KD), WIDEN)
        ds_MK = tl.where(within, p_MK * (dp_MK - delta_M[:, None]), 0.0)
        if WITH_AFFINITY:
            pointers = grad_affinity + position[:, None] * (I * J) + entry
            ds_MK += tl.load(pointers, mask=within, other=0.0)
            ds_MK += tl.load(pointers + repeated_frame, mask=within & query_repeated[:, None], other=0.0)
        if WITH_RPB:
            grad_rpb_IJ += _sum_of_entries(ds_MK, part, tile_x, I, J, BLOCK_I, BLOCK_J, TY, TX, HX, KR)
        grad_q_MD += product(ds_MK.to(k_KD.dtype), k_KD, WIDEN)

    grad_q += batch * dq_b + head.to(tl.int64) * dq_n + pair.to(tl.int64) * dq_t
    grad_q_MD = grad_q_MD * scale
    _store_rows(grad_q, grad_q_MD, query_y, query_x, dq_y, dq_x, query_inside, D, BLOCK_D)
    nothing_MD = tl.zeros([TY * TX, BLOCK_D], tl.float32)  # queries of the last frame are never used
    _store_rows(grad_q + dq_t, nothing_MD, query_y, query_x, dq_y, dq_x, query_repeated, D, BLOCK_D)
    if WITH_RPB:
        i, j = tl.arange(0, BLOCK_I), tl.arange(0, BLOCK_J)
        pointers = grad_rpb + tl.program_id(0).to(tl.int64) * (I * J) + i[:, None] * J + j[None, :]
        tl.store(pointers, grad_rpb_IJ, mask=(i < I)[:, None] & (j < J)[None, :])


@triton.jit
def backward_keys_kernel(
    q, k, v, rpb, lse, delta, grad_context, grad_affinity, grad_k, grad_v,
    heads, frames, pairs, H, W, scale, tiles_x, tiles,
    q_b, q_n, q_t, q_y, q_x,
    k_b, k_n, k_t, k_y, k_x,
    v_b, v_n, v_t, v_y, v_x,
    g_b, g_n, g_t, g_y, g_x,
    dk_b, dk_n, dk_t, dk_y, dk_x,
    dv_b, dv_n, dv_t, dv_y, dv_x,
    D: tl.constexpr, BLOCK_D: tl.constexpr, I: tl.constexpr, J: tl.constexpr,
    TY: tl.constexpr, TX: tl.constexpr, HX: tl.constexpr, KR: tl.constexpr, PARTS: tl.constexpr,
    WITH_AFFINITY: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    """Gradients of a tile of keys and values, from all queries that see it. Here M are keys and K are queries."""
    batch, head, pair, tile_row, tile_column = _place(tiles_x, tiles, pairs, heads)
    key_frame = tl.minimum(pair + 1, frames - 1)
    repeated_rows = tl.where(pair + 2 == frames, H, 0)

    m = tl.arange(0, TY * TX)
    tile_y, tile_x = m // TX, m % TX
    key_y, key_x = tile_row * TY + tile_y, tile_column * TX + tile_x
    key_inside = (key_y < H) & (key_x < W)
    k_MD = _load_rows(
        k + batch * k_b + head.to(tl.int64) * k_n + key_frame.to(tl.int64) * k_t,
        key_y, key_x, k_y, k_x, key_inside, 0.0, D, BLOCK_D,
    )  # fmt: skip
    v_MD = _load_rows(
        v + batch * v_b + head.to(tl.int64) * v_n + key_frame.to(tl.int64) * v_t,
        key_y, key_x, v_y, v_x, key_inside, 0.0, D, BLOCK_D,
    )  # fmt: skip

    q += batch * q_b + head.to(tl.int64) * q_n + pair.to(tl.int64) * q_t
    grad_context += batch * g_b + head.to(tl.int64) * g_n + pair.to(tl.int64) * g_t
    frame_of_pairs = ((batch * heads + head) * pairs + pair) * H * W
    rpb += head * (I * J)
    grad_affinity += ((batch * heads + head) * frames + pair) * H * W * (I * J)
    repeated_frame = H * W * (I * J)

    n = tl.arange(0, KR * HX)
    grad_k_MD = tl.zeros([TY * TX, BLOCK_D], tl.float32)
    grad_v_MD = tl.zeros([TY * TX, BLOCK_D], tl.float32)
    for part in tl.range(0, PARTS):
        halo_y, halo_x = part * KR + n // HX, n % HX
        query_y, query_x = tile_row * TY - I // 2 + halo_y, tile_column * TX - J // 2 + halo_x
        query_inside = (query_y >= 0) & (query_y < H) & (query_x >= 0) & (query_x < W)
        query_repeated = query_inside & (query_y < repeated_rows)
        position = query_y * W + query_x
        within, mirrored = _window_entry(halo_y, halo_x, tile_y, tile_x, I, J)
        within = within & query_inside[None, :]
        entry = I * J - 1 - mirrored

        q_KD = _load_rows(q, query_y, query_x, q_y, q_x, query_inside, 0.0, D, BLOCK_D)
        g_KD = _load_rows(grad_context, query_y, query_x, g_y, g_x, query_inside, 0.0, D, BLOCK_D).to(tl.float32)
        g_KD += _load_rows(grad_context + g_t, query_y, query_x, g_y, g_x, query_repeated, 0.0, D, BLOCK_D)
        g_KD = g_KD.to(q_KD.dtype)
        lse_K = tl.load(lse + frame_of_pairs + position, mask=query_inside, other=0.0)
        delta_K = tl.load(delta + frame_of_pairs + position, mask=query_inside, other=0.0)

        bias_MK = tl.load(rpb + entry, mask=within, other=0.0)
        s_MK = product(k_MD, tl.trans(q_KD), WIDEN) * scale + bias_MK
        p_MK = tl.exp(tl.where(within, s_MK, float("-inf")) - lse_K[None, :])
        grad_v_MD += product(p_MK.to(g_KD.dtype), g_KD, WIDEN)
        dp_MK = product(v_MD, tl.trans(g_KD), WIDEN)
        ds_MK = tl.where(within, p_MK * (dp_MK - delta_K[None, :]), 0.0)
        if WITH_AFFINITY:
            pointers = grad_affinity + position[None, :] * (I * J) + entry
            ds_MK += tl.load(pointers, mask=within, other=0.0)
            ds_MK += tl.load(pointers + repeated_frame, mask=within & query_repeated[None, :], other=0.0)
        grad_k_MD += product(ds_MK.to(q_KD.dtype), q_KD, WIDEN)

    grad_k += batch * dk_b + head.to(tl.int64) * dk_n
    grad_v += batch * dv_b + head.to(tl.int64) * dv_n
    frame = key_frame.to(tl.int64)
    _store_rows(grad_k + frame * dk_t, grad_k_MD * scale, key_y, key_x, dk_y, dk_x, key_inside, D, BLOCK_D)
    _store_rows(grad_v + frame * dv_t, grad_v_MD, key_y, key_x, dv_y, dv_x, key_inside, D, BLOCK_D)
    # Keys and values of the first frame are never used.
    first = key_inside & (key_y < tl.where(key_frame == 1, H, 0))
    nothing_MD = tl.zeros([TY * TX, BLOCK_D], tl.float32)
    _store_rows(grad_k, nothing_MD, key_y, key_x, dk_y, dk_x, first, D, BLOCK_D)
    _store_rows(grad_v, nothing_MD, key_y, key_x, dv_y, dv_x, first, D, BLOCK_D)
