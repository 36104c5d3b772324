"""The backward pass: dq by a scan forward in time, then dk and dv by scans backward in time (`scan`).

Where K = V one launch does dk and dv: the first programs of a head take a block of K each, the others a block of V
each, and what they all read comes from memory once. They run the same code on other pointers: with a branch of its own
for each the compiler would keep the tiles of both in shared memory.
"""

# Triton's decorator hides its kernels' types.
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false

import triton
import triton.language as tl

from .places import slot
from .scan import END, LEAVE, NOTHING, PARTS, scan
from .summed_decays import decay_from
from .tiles import CHANNEL, NONE, first_row, rows, rows_at, segment

# What the programs of a launch of `key_value_scan` do.
KEYS, VALUES, EITHER = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)


@triton.jit(do_not_specialize=["T", "segment_length", "segments"])
def query_scan(
    q, k, v, do, decay, total, initial, dq, along, saved, cu_seqlens,
    initial_sums, factor, extra, saved_sums, scale, T, segment_length, segments, H, tokens,
    q_strides, k_strides, v_strides, do_strides, dq_strides, decay_strides,
    K: tl.constexpr, V: tl.constexpr, GROUP: tl.constexpr,
    TIME: tl.constexpr, STAGES: tl.constexpr, BLOCK: tl.constexpr, FULL_V: tl.constexpr, EVERY: tl.constexpr,
    KIND: tl.constexpr, PRECISE: tl.constexpr, VARLEN: tl.constexpr,
):  # fmt: skip
    """Grid (blocks of K, segments * H). initial: [segments, H, K, V] or None.

    For the decay's gradient (None without): along [blocks of K * PARTS, H, tokens], saved [places, H, K, V].
    For the normaliser (None without): factor, extra [tokens, H], initial_sums [segments, H, K], saved_sums
    [places, H, K].
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
        decay = decay_from(decay, decay_strides, batch, start, head, sequence, T, H, TIME, KIND, VARLEN)
    if along is not None:
        along += (i_k * PARTS * H + head).to(tl.int64) * tokens + batch * T + start
    if saved is not None:
        saved += (slot(sequence, start, T, TIME * EVERY, VARLEN) * H + head) * K * V
    o_k, o_v = first_k + tl.arange(0, BLOCK), tl.arange(0, FULL_V)
    if initial is not None:
        place = (i_segment.to(tl.int64) * H + head) * K * V + o_k[:, None] * V + o_v[None, :]
        state = tl.load(initial + place, mask=(o_k[:, None] < K) & (o_v[None, :] < V), other=0.0)
    else:
        state = tl.zeros([BLOCK, FULL_V], tl.float32)
    if extra is not None:
        factor += (batch * T + start).to(tl.int64) * H + head
        extra += (batch * T + start).to(tl.int64) * H + head
        sums = tl.zeros([BLOCK], tl.float32)
        if initial_sums is not None:
            sums = tl.load(initial_sums + (i_segment.to(tl.int64) * H + head) * K + o_k, mask=o_k < K, other=0.0)
        if saved_sums is not None:
            saved_sums += (slot(sequence, start, T, TIME * EVERY, VARLEN) * H + head) * K
    else:
        sums = None
    scan(
        do_rows, v_rows, k_rows, dq_rows, state, first_k, length, scale,
        decay, decay_strides[1], total, None, H, q_rows, along, tokens * H, None, 0, saved, o_k, o_v, V, 1, True,
        factor, extra, None, sums, saved_sums, None,
        K, K, V, TIME, STAGES, EVERY, KIND, PRECISE, False, True, NOTHING if saved is None else LEAVE, False,
    )  # fmt: skip


@triton.jit
def key_or_value_role(
    q, k, v, do, decay, scores, total, d_final, dk, dv, along, part_stride, fresh, fresh_stride, saved, d_initial,
    batch, start, length, head, first, states, scale, H, decay_stride, is_key,
    d_final_sums, d_initial_sums, factor, extra, saved_sums, skip,
    q_strides, k_strides, v_strides, do_strides, dk_strides, dv_strides, scores_strides,
    K: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, GROUP: tl.constexpr,
    TIME: tl.constexpr, STAGES: tl.constexpr, BLOCK: tl.constexpr, FULL: tl.constexpr, EVERY: tl.constexpr,
    KIND: tl.constexpr, PRECISE: tl.constexpr, KEYS: tl.constexpr, GRADIENT: tl.constexpr,
):  # fmt: skip
    """dk of a block of K and what it adds to the decay's gradient, or dv of a block of V and of the initial state's.

    is_key: which, known as KEYS when compiling or, where K = V, only when running.
    """
    q += first_row(q_strides, batch, start, head // GROUP)
    k += first_row(k_strides, batch, start, head // GROUP)
    v += first_row(v_strides, batch, start, head)
    do += first_row(do_strides, batch, start, head)
    if is_key:
        query, key, value, out, companion = v, do, q, dk + first_row(dk_strides, batch, start, head), k
        query_stride, key_stride, value_stride, out_stride = v_strides[1], do_strides[1], q_strides[1], dk_strides[1]
        companion_stride, row_stride, column_stride = k_strides[1], COLUMNS, 1
    else:
        query, key, value, out, companion = k, q, do, dv + first_row(dv_strides, batch, start, head), do
        query_stride, key_stride, value_stride, out_stride = k_strides[1], q_strides[1], do_strides[1], dv_strides[1]
        companion_stride, row_stride, column_stride = do_strides[1], 1, ROWS
    score_rows = None
    if KIND == CHANNEL and not KEYS:
        score_rows = rows(scores, scores_strides, batch, start, head, length, TIME, TIME, TIME)
    o_row, o_column = first + tl.arange(0, BLOCK), tl.arange(0, FULL)
    place = states + o_row[:, None] * row_stride + o_column[None, :] * column_stride
    inside = (o_row[:, None] < ROWS) & (o_column[None, :] < COLUMNS)
    if d_final is not None:
        d_state = tl.load(d_final + place, mask=inside, other=0.0) / scale
    else:
        d_state = tl.zeros([BLOCK, FULL], tl.float32)
    place_of_sums = states // COLUMNS + o_row
    if extra is not None:
        d_sums = tl.zeros([BLOCK], tl.float32)
        if d_final_sums is not None:
            d_sums = tl.load(d_final_sums + place_of_sums, mask=(o_row < ROWS) & is_key, other=0.0)
    else:
        d_sums = None
    d_state, d_sums = scan(
        rows_at(query, query_stride, length, COLUMNS, TIME, FULL),
        rows_at(key, key_stride, length, COLUMNS, TIME, FULL),
        rows_at(value, value_stride, length, ROWS, TIME, BLOCK), rows_at(out, out_stride, length, ROWS, TIME, BLOCK),
        d_state, first, length, scale, decay, decay_stride, total, score_rows, H,
        None if GRADIENT == LEAVE else rows_at(companion, companion_stride, length, ROWS, TIME, BLOCK),
        along, part_stride, fresh, fresh_stride, saved, o_row, o_column, COLUMNS, 1, is_key or GRADIENT == LEAVE,
        factor, extra, None, d_sums, saved_sums, skip,
        K, ROWS, COLUMNS, TIME, STAGES, EVERY, KIND, PRECISE, True, KEYS, GRADIENT, GRADIENT != LEAVE,
    )  # fmt: skip
    if d_initial is not None:
        if not is_key:
            tl.store(d_initial + place, d_state * scale, mask=inside)
    if d_initial_sums is not None and extra is not None:
        tl.store(d_initial_sums + place_of_sums, d_sums, mask=(o_row < ROWS) & is_key)


@triton.jit(do_not_specialize=["T", "segment_length", "segments"])
def key_value_scan(
    q, k, v, do, decay, scores, total, d_final, dk, dv, along, fresh, saved, d_initial, cu_seqlens,
    d_final_sums, d_initial_sums, factor, extra, saved_sums, skip,
    scale, T, segment_length, segments, H, tokens, places,
    q_strides, k_strides, v_strides, do_strides, dk_strides, dv_strides, decay_strides, scores_strides,
    K: tl.constexpr, V: tl.constexpr, GROUP: tl.constexpr,
    TIME: tl.constexpr, STAGES: tl.constexpr, BLOCK: tl.constexpr, FULL_K: tl.constexpr, FULL_V: tl.constexpr,
    EVERY: tl.constexpr, KIND: tl.constexpr, PRECISE: tl.constexpr, VARLEN: tl.constexpr, ROLES: tl.constexpr,
):  # fmt: skip
    """Grid (blocks of the ROLES, segments * H), those of K before those of V. d_final, d_initial: [segments, H, K, V].

    For the decay's gradient (None without): saved, as `query_scan` left it; along [blocks of K * PARTS, H, tokens] and
    fresh [blocks of K * PARTS, places, H] for `decay_gradient`. For a decay per channel fresh is [places, H, K].
    For the normaliser as in `query_scan`; the keys' programs alone take extra. Where states are left
    (VALUES with saved), factor is value_scale; skip [H], or None.
    """
    BLOCKS_K: tl.constexpr = (K + BLOCK - 1) // BLOCK
    i_segment, head = tl.program_id(1) // H, tl.program_id(1) % H
    batch, start, length, sequence = segment(i_segment, cu_seqlens, T, segment_length, segments, VARLEN)
    place = slot(sequence, start, T, TIME, VARLEN) * H + head
    states = (i_segment.to(tl.int64) * H + head) * K * V
    GRADIENT: tl.constexpr = NOTHING if saved is None else (LEAVE if ROLES == VALUES else END)
    if ROLES == VALUES:
        i_block, is_key = tl.program_id(0), False  # and leaves its states, if wanted
    elif ROLES == KEYS:
        i_block, is_key = tl.program_id(0), True
    else:
        i_block, is_key = tl.program_id(0) % BLOCKS_K, tl.program_id(0) < BLOCKS_K
    if KIND == CHANNEL:
        total += place * K
    elif KIND != NONE:
        decay = decay_from(decay, decay_strides, batch, start, head, sequence, T, H, TIME, KIND, VARLEN)
    if along is not None:
        along += (i_block * PARTS * H + head).to(tl.int64) * tokens + batch * T + start
    if fresh is not None:
        afresh = slot(sequence, start, T, TIME * EVERY, VARLEN)
        fresh += place * K if KIND == CHANNEL else (i_block * PARTS * places + afresh) * H + head
    if saved is not None:
        saved += (slot(sequence, start, T, TIME * EVERY, VARLEN) * H + head) * K * V
    if factor is not None:
        factor += (batch * T + start).to(tl.int64) * H + head
    if skip is not None:
        skip += head
    if extra is not None:
        extra += (batch * T + start).to(tl.int64) * H + head
        if saved_sums is not None:
            saved_sums += (slot(sequence, start, T, TIME * EVERY, VARLEN) * H + head) * K
    key_or_value_role(
        q, k, v, do, decay, scores, total, d_final, dk, dv, along, tokens * H, fresh, places * H, saved, d_initial,
        batch, start, length, head, i_block * BLOCK, states, scale, H, decay_strides[1], is_key,
        d_final_sums, d_initial_sums, factor, extra, saved_sums, skip,
        q_strides, k_strides, v_strides, do_strides, dk_strides, dv_strides, scores_strides,
        K, V if ROLES == VALUES else K, K if ROLES == VALUES else V, GROUP, TIME, STAGES, BLOCK,
        FULL_K if ROLES == VALUES else FULL_V, EVERY, KIND, PRECISE, ROLES == KEYS,
        GRADIENT,
    )  # fmt: skip
