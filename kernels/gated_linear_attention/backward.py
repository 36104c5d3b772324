"""The backward pass: dq by a scan forward in time, then dk and dv by scans backward in time (`scan`).

dk and dv share one launch: the first programs of a head take a block of K each, the others a block of V each.
"""

# Triton's decorator hides its kernels' types.
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false

import triton
import triton.language as tl

from .scan import END, LEAVE, NOTHING, scan
from .tiles import CHANNEL, NONE, first_row, rows, segment, slot


@triton.jit(do_not_specialize=["T", "segment_length", "segments"])
def query_scan(
    q, k, v, do, decay, total, initial, dq, along, saved, cu_seqlens,
    scale, T, segment_length, segments, H, tokens,
    q_strides, k_strides, v_strides, do_strides, dq_strides, decay_strides,
    K: tl.constexpr, V: tl.constexpr, GROUP: tl.constexpr,
    TIME: tl.constexpr, BLOCK: tl.constexpr, FULL_V: tl.constexpr, EVERY: tl.constexpr,
    KIND: tl.constexpr, PRECISE: tl.constexpr, VARLEN: tl.constexpr,
):  # fmt: skip
    """Grid (blocks of K, segments * H). initial: [segments, H, K, V] or None.

    For the decay's gradient (None without): along [blocks of K, tokens, H], saved [places, H, K, V].
    """
    i_k, first_k = tl.program_id(0), tl.program_id(0) * BLOCK
    i_segment, head = tl.program_id(1) // H, tl.program_id(1) % H
    batch, start, length, sequence = segment(i_segment, cu_seqlens, T, segment_length, segments, VARLEN)
    q_rows = rows(q, q_strides, batch, start, head // GROUP, length, K, TIME, BLOCK)
    k_rows = rows(k, k_strides, batch, start, head // GROUP, length, K, TIME, BLOCK)
    v_rows = rows(v, v_strides, batch, start, head, length, V, TIME, FULL_V)
    do_rows = rows(do, do_strides, batch, start, head, length, V, TIME, FULL_V)
    dq_rows = rows(dq, dq_strides, batch, start, head, length, K, TIME, BLOCK)
    if KIND == CHANNEL:
        total += (slot(sequence, start, T, TIME, VARLEN) * H + head) * K
    elif KIND != NONE:
        decay += first_row(decay_strides, batch, start, head)
    if along is not None:
        along += (i_k * tokens + batch * T + start).to(tl.int64) * H + head
    if saved is not None:
        saved += (slot(sequence, start, T, TIME * EVERY, VARLEN) * H + head) * K * V
    o_k, o_v = first_k + tl.arange(0, BLOCK), tl.arange(0, FULL_V)
    if initial is not None:
        place = (i_segment.to(tl.int64) * H + head) * K * V + o_k[:, None] * V + o_v[None, :]
        state = tl.load(initial + place, mask=(o_k[:, None] < K) & (o_v[None, :] < V), other=0.0)
    else:
        state = tl.zeros([BLOCK, FULL_V], tl.float32)
    scan(
        do_rows, v_rows, k_rows, dq_rows, state, first_k, length, scale,
        decay, decay_strides[1], total, None, H, q_rows, along, saved, o_k, o_v, V, 1,
        K, K, V, TIME, EVERY, KIND, PRECISE, False, True, NOTHING if saved is None else LEAVE,
    )  # fmt: skip


@triton.jit
def key_role(
    q, k, v, do, decay, total, d_final, dk, along, saved,
    batch, start, length, head, first_k, states, scale, H, decay_stride,
    q_strides, k_strides, v_strides, do_strides, dk_strides,
    K: tl.constexpr, V: tl.constexpr, GROUP: tl.constexpr,
    TIME: tl.constexpr, BLOCK: tl.constexpr, FULL_V: tl.constexpr, EVERY: tl.constexpr,
    KIND: tl.constexpr, PRECISE: tl.constexpr,
):  # fmt: skip
    """dk of a block of K, and what it adds to the decay's gradient."""
    q_rows = rows(q, q_strides, batch, start, head // GROUP, length, K, TIME, BLOCK)
    k_rows = rows(k, k_strides, batch, start, head // GROUP, length, K, TIME, BLOCK)
    v_rows = rows(v, v_strides, batch, start, head, length, V, TIME, FULL_V)
    do_rows = rows(do, do_strides, batch, start, head, length, V, TIME, FULL_V)
    dk_rows = rows(dk, dk_strides, batch, start, head, length, K, TIME, BLOCK)
    o_k, o_v = first_k + tl.arange(0, BLOCK), tl.arange(0, FULL_V)
    if d_final is not None:
        place = states + o_k[:, None] * V + o_v[None, :]
        d_state = tl.load(d_final + place, mask=(o_k[:, None] < K) & (o_v[None, :] < V), other=0.0) / scale
    else:
        d_state = tl.zeros([BLOCK, FULL_V], tl.float32)
    scan(
        v_rows, do_rows, q_rows, dk_rows, d_state, first_k, length, scale,
        decay, decay_stride, total, None, H, k_rows, along, saved, o_k, o_v, V, 1,
        K, K, V, TIME, EVERY, KIND, PRECISE, True, True, NOTHING if saved is None else END,
    )  # fmt: skip


@triton.jit
def value_role(
    q, k, do, decay, scores, total, d_final, dv, d_initial,
    batch, start, length, head, first_v, states, scale, H, decay_stride,
    q_strides, k_strides, do_strides, dv_strides, scores_strides,
    K: tl.constexpr, V: tl.constexpr, GROUP: tl.constexpr,
    TIME: tl.constexpr, BLOCK: tl.constexpr, FULL_K: tl.constexpr, KIND: tl.constexpr, PRECISE: tl.constexpr,
):  # fmt: skip
    """dv of a block of V, and those columns of the initial state's gradient."""
    q_rows = rows(q, q_strides, batch, start, head // GROUP, length, K, TIME, FULL_K)
    k_rows = rows(k, k_strides, batch, start, head // GROUP, length, K, TIME, FULL_K)
    do_rows = rows(do, do_strides, batch, start, head, length, V, TIME, BLOCK)
    dv_rows = rows(dv, dv_strides, batch, start, head, length, V, TIME, BLOCK)
    score_rows = None
    if KIND == CHANNEL:
        score_rows = rows(scores, scores_strides, batch, start, head, length, TIME, TIME, TIME)
    o_v, o_k = first_v + tl.arange(0, BLOCK), tl.arange(0, FULL_K)
    place = states + o_k[None, :] * V + o_v[:, None]
    inside = (o_v[:, None] < V) & (o_k[None, :] < K)
    if d_final is not None:
        d_state = tl.load(d_final + place, mask=inside, other=0.0) / scale
    else:
        d_state = tl.zeros([BLOCK, FULL_K], tl.float32)
    d_state = scan(
        k_rows, q_rows, do_rows, dv_rows, d_state, first_v, length, scale,
        decay, decay_stride, total, score_rows, H, None, None, None, o_v, o_k, 0, 0,
        K, V, K, TIME, 1, KIND, PRECISE, True, False, NOTHING,
    )  # fmt: skip
    if d_initial is not None:
        tl.store(d_initial + place, d_state * scale, mask=inside)


@triton.jit(do_not_specialize=["T", "segment_length", "segments"])
def key_value_scan(
    q, k, v, do, decay, scores, total, d_final, dk, dv, along, saved, d_initial, cu_seqlens,
    scale, T, segment_length, segments, H, tokens,
    q_strides, k_strides, v_strides, do_strides, dk_strides, dv_strides, decay_strides, scores_strides,
    K: tl.constexpr, V: tl.constexpr, GROUP: tl.constexpr,
    TIME: tl.constexpr, BLOCK: tl.constexpr, FULL_K: tl.constexpr, FULL_V: tl.constexpr, EVERY: tl.constexpr,
    KIND: tl.constexpr, PRECISE: tl.constexpr, VARLEN: tl.constexpr,
    FIRST_ROLE: tl.constexpr, ONLY_KEYS: tl.constexpr,
):  # fmt: skip
    """Grid (blocks of K + blocks of V, segments * H). d_final, d_initial: [segments, H, K, V] or None.

    Two launches may do it instead: one with ONLY_KEYS, a grid of the blocks of K, one of the rest from FIRST_ROLE on.

    along, saved: as `query_scan` left them; along receives the decay's gradient, a part for each block of K. For a
    decay per channel along is [places, H, K] and receives sum_v S dS, S before a chunk and dS after it.
    """
    BLOCKS_K: tl.constexpr = (K + BLOCK - 1) // BLOCK
    role = tl.program_id(0) + FIRST_ROLE
    i_segment, head = tl.program_id(1) // H, tl.program_id(1) % H
    batch, start, length, sequence = segment(i_segment, cu_seqlens, T, segment_length, segments, VARLEN)
    place = slot(sequence, start, T, TIME, VARLEN) * H + head
    states = (i_segment.to(tl.int64) * H + head) * K * V
    if KIND == CHANNEL:
        total += place * K
    elif KIND != NONE:
        decay += first_row(decay_strides, batch, start, head)
    if FIRST_ROLE < BLOCKS_K and (ONLY_KEYS or role < BLOCKS_K):
        if along is not None:
            along += place * K if KIND == CHANNEL else (role * tokens + batch * T + start).to(tl.int64) * H + head
        if saved is not None:
            saved += (slot(sequence, start, T, TIME * EVERY, VARLEN) * H + head) * K * V
        key_role(
            q, k, v, do, decay, total, d_final, dk, along, saved,
            batch, start, length, head, role * BLOCK, states, scale, H, decay_strides[1],
            q_strides, k_strides, v_strides, do_strides, dk_strides,
            K, V, GROUP, TIME, BLOCK, FULL_V, EVERY, KIND, PRECISE,
        )  # fmt: skip
    else:
        value_role(
            q, k, do, decay, scores, total, d_final, dv, d_initial,
            batch, start, length, head, (role - BLOCKS_K) * BLOCK, states, scale, H, decay_strides[1],
            q_strides, k_strides, do_strides, dv_strides, scores_strides,
            K, V, GROUP, TIME, BLOCK, FULL_K, KIND, PRECISE,
        )  # fmt: skip
