"""Decay per channel, after the backward scans: the gradients of q, k, the decay and the bonus, a chunk at a time.

What came through the states gets its weights, 2^c for q and 2^(C - c) for k; what came through the scores is added,

    dq_i += sum_j dA_ij k_j 2^(c_i - c_j)          dk_j += sum_i dA_ij q_i 2^(c_i - c_j)          dA = scale do v^T

level by level as the scores were formed (`chunk_tiles`). The decay's gradient is, channel by channel, the sum that
`scan` describes; its two sides use the same rounded products, so that what must cancel does.
"""

# Triton's decorator hides its kernels' types.
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false, reportAssignmentType=false

import triton
import triton.language as tl

from .chunk_tiles import (
    centre,
    centred_exponents,
    centred_pairs,
    key_weights,
    level_masks,
    load_decay,
    query_weights,
    sums,
    tile,
)
from .places import tokens_of
from .tiles import LOG2E, dot, power


@triton.jit
def score_gradients(do, v, do_strides, v_strides, batch, start, head, length, scale,
                    V: tl.constexpr, TIME: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """scale do v^T [TIME, TIME] of one chunk, in float32 its diagonal [TIME, 1] and in v's dtype all of it."""
    i = tl.arange(0, TIME)
    d_scores = tl.zeros([TIME, TIME], tl.float32)
    for first_v in range(0, V, BLOCK):
        o_v = first_v + tl.arange(0, BLOCK)
        inside = (i[:, None] < length) & (o_v[None, :] < V)
        b_do = tl.load(tile(do, do_strides, batch, start, head, i, o_v, V), mask=inside, other=0.0)
        b_v = tl.load(tile(v, v_strides, batch, start, head, i, o_v, V), mask=inside, other=0.0)
        d_scores = dot(b_do, tl.trans(b_v), d_scores)
    d_scores *= scale
    diagonal = tl.sum(tl.where(i[:, None] == i[None, :], d_scores, 0.0), 1)
    return diagonal[:, None], d_scores.to(v.dtype.element_ty)


@triton.jit
def to_queries(d_scores, pairs, q_x, k_x, x_q):
    """What the pairs of one level add to dq and to q . dq, from rounded weighted queries and keys."""
    of_q = dot(tl.where(pairs, d_scores, 0.0).to(q_x.dtype), k_x)
    return of_q * x_q, q_x.to(tl.float32) * of_q


@triton.jit
def to_keys(d_scores, pairs, q_x, k_x, x_k):
    """What the pairs of one level add to dk and to k . dk, from rounded weighted queries and keys."""
    of_k = dot(tl.trans(tl.where(pairs, d_scores, 0.0).to(q_x.dtype)), q_x)
    return of_k * x_k, k_x.to(tl.float32) * of_k


@triton.jit(do_not_specialize=["T"])
def channel_gradients(
    q, k, v, do, decay, bonus, dq, dk, crossing, d_decay, d_bonus, lean, sequence_of, cu_seqlens,
    scale, T, H, q_strides, k_strides, v_strides, do_strides, decay_strides, dq_strides, d_decay_strides,
    K: tl.constexpr, V: tl.constexpr, GROUP: tl.constexpr, TIME: tl.constexpr, LEVELS: tl.constexpr,
    BLOCK: tl.constexpr, LIMIT: tl.constexpr, VARLEN: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    """Grid (places, H). dq, dk [B, T, H, K]: the parts through the states, completed in place.

    crossing: [places, H, K] from `scan`. d_bonus: [places, H, K] or None.
    lean: from `channel_scores`, which form a chunk takes.
    """
    place, head = tl.program_id(0), tl.program_id(1)
    STRICT: tl.constexpr = bonus is not None
    batch, start, length = tokens_of(place, sequence_of, cu_seqlens, T, TIME, VARLEN)
    i = tl.arange(0, TIME)
    channels = (place.to(tl.int64) * H + head) * K
    if length <= 0:
        if bonus is not None:
            for first_k in range(0, K, BLOCK):
                o_k = first_k + tl.arange(0, BLOCK)
                tl.store(d_bonus + channels + o_k, tl.zeros([BLOCK], tl.float32), mask=o_k < K)
        return
    is_lean = tl.load(lean + place.to(tl.int64) * H + head) != 0
    if is_lean == EXACT:
        return
    dtype = q.dtype.element_ty
    own, d_scores = score_gradients(do, v, do_strides, v_strides, batch, start, head, length, scale, V, TIME, BLOCK)
    for first_k in range(0, K, BLOCK):
        o_k = first_k + tl.arange(0, BLOCK)
        inside = (i[:, None] < length) & (o_k[None, :] < K)
        b_q = tl.load(tile(q, q_strides, batch, start, head // GROUP, i, o_k, K), mask=inside, other=0.0)
        b_k = tl.load(tile(k, k_strides, batch, start, head // GROUP, i, o_k, K), mask=inside, other=0.0)
        g = load_decay(tile(decay, decay_strides, batch, start, head, i, o_k, K), inside, dtype)
        if EXACT:
            log2_size, e_k = centre(g, dtype, TIME, LEVELS, LIMIT)
        else:
            log2_size, e_k = LEVELS, centred_exponents(g, LEVELS, dtype, TIME, False)
        e_q = centred_exponents(g, log2_size, dtype, TIME, True) if STRICT else e_k
        x_q, x_k, pairs = power(e_q), power(-e_k), centred_pairs(log2_size, TIME)
        q_x, k_x = (b_q * x_q).to(dtype), (b_k * x_k).to(dtype)
        all_c = tl.sum(g.to(tl.float32), 0) * LOG2E
        b_u = tl.full([BLOCK], 1.0, tl.float32)
        if bonus is not None:
            b_u = tl.load(bonus + head * K + o_k, mask=o_k < K, other=0.0).to(tl.float32)
            tl.store(d_bonus + channels + o_k, tl.sum(own * b_q * b_k, 0), mask=o_k < K)

        # All of dq before any of dk: both at once take more registers than there are.
        b_dq, along = to_queries(d_scores, pairs, q_x, k_x, x_q)
        if EXACT:
            for log2_half in range(log2_size, LEVELS):
                between, level = level_masks(log2_half, TIME, STRICT)
                x = power(sums(between, g, dtype) * LOG2E)
                add_q, add_along = to_queries(d_scores, level, (b_q * x).to(dtype), (b_k * x).to(dtype), x)
                b_dq += add_q
                along += add_along
        to_dq = tile(dq, dq_strides, batch, start, head, i, o_k, K)
        state_dq = tl.load(to_dq, mask=inside, other=0.0) * query_weights(g, x_q, all_c, dtype, TIME, STRICT, EXACT)
        tl.store(to_dq, (b_dq + state_dq + own * b_u[None, :] * b_k).to(dtype), mask=inside)
        along += b_q * state_dq
        if STRICT:
            along_q = along

        b_dk, along_k = to_keys(d_scores, pairs, q_x, k_x, x_k)
        if EXACT:
            for log2_half in range(log2_size, LEVELS):
                between, level = level_masks(log2_half, TIME, STRICT)
                x = power(sums(between, g, dtype) * LOG2E)
                add_k, add_along = to_keys(d_scores, level, (b_q * x).to(dtype), (b_k * x).to(dtype), x)
                b_dk += add_k
                along_k += add_along
        to_dk = tile(dk, dq_strides, batch, start, head, i, o_k, K)
        state_dk = tl.load(to_dk, mask=inside, other=0.0) * key_weights(g, x_k, all_c, dtype, TIME, EXACT)
        tl.store(to_dk, (b_dk + state_dk + own * b_u[None, :] * b_q).to(dtype), mask=inside)
        along -= along_k + b_k * state_dk
        b_dg = sums(i[None, :] >= i[:, None], along, dtype)
        if STRICT:
            b_dg -= along_q
        b_crossing = tl.load(crossing + channels + o_k, mask=o_k < K, other=0.0) * power(all_c) + tl.sum(
            b_k * state_dk, 0
        )
        b_dg += b_crossing[None, :]
        tl.store(
            tile(d_decay, d_decay_strides, batch, start, head, i, o_k, K),
            b_dg.to(d_decay.dtype.element_ty),
            mask=inside,
        )
