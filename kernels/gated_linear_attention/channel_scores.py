"""Decay per channel, before the scan: a chunk's scores, and its queries and keys weighted for the states.

    scores_ij = sum_k q_ik k_jk 2^(c_i - c_j), i >= j         q~ = 2^c q         k~ = 2^(C - c) k

With a bonus u, o_t sees the state before t and its own token through u: c_(i-1) takes the place of c_i, and the
diagonal is sum_k q_ik u_k k_ik. All chunks at once; `chunk_tiles` says how the scores are formed.
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


@triton.jit(do_not_specialize=["T"])
def channel_scores(
    q, k, decay, bonus, scores, weighted_q, weighted_k, total, lean, sequence_of, cu_seqlens,
    T, H, q_strides, k_strides, decay_strides, scores_strides, weighted_strides,
    K: tl.constexpr, GROUP: tl.constexpr, TIME: tl.constexpr, LEVELS: tl.constexpr, BLOCK: tl.constexpr,
    LIMIT: tl.constexpr, VARLEN: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    """Grid (places, H). scores [B, T, H, TIME], weighted_q and weighted_k [B, T, H, K], total [places, H, K] (log2).

    lean: int8 [places, H], whether the lean form was enough for a chunk.
    """
    place, head = tl.program_id(0), tl.program_id(1)
    STRICT: tl.constexpr = bonus is not None
    batch, start, length = tokens_of(place, sequence_of, cu_seqlens, T, TIME, VARLEN)
    if length <= 0:
        return
    lean += place.to(tl.int64) * H + head
    if EXACT:
        if tl.load(lean) != 0:
            return
    i = tl.arange(0, TIME)
    largest = tl.full((), 0.0, tl.float32)
    dtype = scores.dtype.element_ty
    b_scores = tl.zeros([TIME, TIME], tl.float32)
    own = tl.zeros([TIME], tl.float32)
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
            largest = tl.maximum(largest, tl.max(tl.abs(e_k)))
        e_q = centred_exponents(g, log2_size, dtype, TIME, True) if STRICT else e_k
        x_q, x_k = power(e_q), power(-e_k)
        all_c = tl.sum(g.to(tl.float32), 0) * LOG2E
        of_q = query_weights(g, x_q, all_c, dtype, TIME, STRICT, EXACT)
        of_k = key_weights(g, x_k, all_c, dtype, TIME, EXACT)
        tl.store(tile(weighted_q, weighted_strides, batch, start, head, i, o_k, K), (b_q * of_q).to(dtype), mask=inside)
        tl.store(tile(weighted_k, weighted_strides, batch, start, head, i, o_k, K), (b_k * of_k).to(dtype), mask=inside)
        tl.store(total + (place.to(tl.int64) * H + head) * K + o_k, all_c, mask=o_k < K)

        if bonus is not None:
            b_u = tl.load(bonus + head * K + o_k, mask=o_k < K, other=0.0).to(tl.float32)
            own += tl.sum(b_q * b_u[None, :] * b_k, 1)
        else:
            own += tl.sum(b_q.to(tl.float32) * b_k, 1)

        near = dot((b_q * x_q).to(dtype), tl.trans((b_k * x_k).to(dtype)))
        b_scores += tl.where(centred_pairs(log2_size, TIME), near, 0.0)
        if EXACT:
            for log2_half in range(log2_size, LEVELS):
                between, pairs = level_masks(log2_half, TIME, STRICT)
                x = power(sums(between, g, dtype) * LOG2E)
                b_scores += tl.where(pairs, dot((b_q * x).to(dtype), tl.trans((b_k * x).to(dtype))), 0.0)
    b_scores += tl.where(i[:, None] == i[None, :], own[:, None], 0.0)
    if not EXACT:
        tl.store(lean, (largest <= LIMIT).to(tl.int8))
    tl.store(tile(scores, scores_strides, batch, start, head, i, i, TIME), b_scores.to(dtype), mask=i[:, None] < length)
