"""The one scan that all passes are made of: forward in time or backward, over chunks, its state in registers.

With out, query, key and value read as below, a chunk does, forward in time,

    out_i  = scale (sum over j <= i of value_j (key_j . query_i) 2^(c_i - c_j) + 2^c_i state query_i)
    state' = 2^C state + sum over j of 2^(C - c_j) value_j key_j^T

with c the cumulative log2 decay inside the chunk and C its last entry. Backward in time j >= i, and the decay to the
chunk's end, C - c, takes the place of c.

| pass    | time     | out | query | key | value | state          |
|---------|----------|-----|-------|-----|-------|----------------|
| forward | forward  | o   | q     | k   | v     | S^T [V, K]     |
| dq      | forward  | dq  | do    | v   | k     | S [K, V]       |
| dk      | backward | dk  | v     | do  | q     | dS [K, V]      |
| dv      | backward | dv  | k     | q   | do    | dS^T [V, K]    |

A program holds a block of the state's rows, so that its columns of out are whole. Everything is computed transposed:
out comes as [BLOCK, TIME], so that the state and the values enter the matrix units from registers and only the chunk's
weights between tokens go through shared memory.

**The decay's gradient.** The decay at t scales whatever passes from before t to t or later. Inside a chunk that is

    P + sum_{j < t} k_j . dk_j + sum_{i >= t} q_i . dq_i + sum_{i >= t > j} M_ij         P = 2^C <S, dS>

with dq and dk only what comes through the states, and M the scores times their gradients. From chunk to chunk P
follows from P + sum q . dq before a chunk = P + sum k . dk after the one before it; but rounding accumulates in that
difference, so that P starts afresh from <S, dS> at every EVERY-th chunk. The scan of dq leaves S and q . dq behind,
that of dk ends it.
"""

import triton
import triton.language as tl

from .tiles import CHANNEL, NONE, dot, power, scalar_decay

# What a scan does for the decay's gradient.
NOTHING, LEAVE, END = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)


@triton.jit
def scan(
    query, key, value, out, state, first_row, length, scale,
    decay, decay_stride, total, scores, H,
    companion, along, saved, o_row, o_column, row_stride, column_stride,
    K: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, TIME: tl.constexpr, EVERY: tl.constexpr,
    KIND: tl.constexpr, PRECISE: tl.constexpr, BACKWARD: tl.constexpr, BY_ROW: tl.constexpr, GRADIENT: tl.constexpr,
):  # fmt: skip
    """Run over a segment of `length` tokens; returns the state it ends with.

    query, key, value, out, scores, companion: tiles of a head's rows (`tiles.rows`); scores None without a part inside
    chunks. state: [block of ROWS from first_row on, COLUMNS]. BY_ROW: the state's rows, not its columns, are the keys'
    channels. total: [chunks, H, K], for a decay per channel. For the decay's gradient: companion, what goes along with
    out (q with dq, k with dk); along [length, H]; saved: states, [chunks / EVERY, H, ...] with the strides given.
    """
    i = tl.arange(0, TIME)
    if BACKWARD:
        reaches = i[:, None] >= i[None, :]
    else:
        reaches = i[:, None] <= i[None, :]
    inside = (o_row[:, None] < ROWS) & (o_column[None, :] < COLUMNS)
    after = tl.full((), 0.0, tl.float32)
    chunks = tl.cdiv(length, TIME)
    for step in range(chunks):
        i_chunk = chunks - 1 - step if BACKWARD else step
        first = i_chunk * TIME
        b_query = query.load([first, 0])
        b_key = key.load([first, 0])
        b_value = value.load([first, first_row])
        dtype = b_value.dtype
        out_t = dot(state.to(dtype), tl.trans(b_query)) * scale
        crossing = tl.full((), 0.0, tl.float32)
        if GRADIENT != NOTHING and ((i_chunk + 1) % EVERY == 0 or first + TIME >= length):
            here = saved + tl.cast(i_chunk // EVERY, tl.int64) * H * ROWS * COLUMNS
            here += o_row[:, None] * row_stride + o_column[None, :] * column_stride
            if GRADIENT == LEAVE:
                tl.store(here, state.to(dtype), mask=inside)
            else:
                product = tl.load(here, mask=inside, other=0.0).to(tl.float32) * state
                if KIND == CHANNEL:
                    channels = along + tl.cast(i_chunk, tl.int64) * H * K + o_row
                    tl.store(channels, tl.sum(product, 1) * scale, mask=o_row < K)
                else:
                    crossing = tl.sum(product) * scale
        if KIND == CHANNEL:
            if scores is not None:
                b_scores = scores.load([first, 0])
                out_t += dot(tl.trans(b_value), b_scores if BACKWARD else tl.trans(b_scores)) * scale
            o_k = o_row if BY_ROW else o_column
            keep = power(tl.load(total + i_chunk * H * K + o_k, mask=o_k < K, other=0.0))
            state *= keep[:, None] if BY_ROW else keep[None, :]
            state = dot(tl.trans(b_value), b_key, state)
        else:
            weights = dot(b_key, tl.trans(b_query))
            value_t = tl.trans(b_value)
            if KIND == NONE:
                weights = tl.where(reaches, weights * scale, 0.0)
            else:
                c, all_c = scalar_decay(decay, decay_stride, first, length, TIME, KIND, PRECISE)
                to_query, from_value = (all_c - c, c) if BACKWARD else (c, all_c - c)
                between = power(to_query[None, :] - to_query[:, None])
                weights = tl.where(reaches, weights * (between * scale), 0.0)
                out_t *= power(to_query)[None, :]
                value_t = (value_t.to(tl.float32) * power(from_value)[None, :]).to(dtype)
                state *= power(all_c)
            if GRADIENT != NOTHING:
                b_companion = companion.load([first, first_row])
                through_states = tl.sum(tl.trans(b_companion).to(tl.float32) * out_t, 0)
                here = along + tl.cast(first + i, tl.int64) * H
                if GRADIENT == LEAVE:
                    tl.store(here, through_states, mask=first + i < length)
                else:
                    both = tl.where(i[:, None] > i[None, :], dot(b_value, tl.trans(b_companion)) * weights, 0.0)
                    from_q = tl.load(here, mask=first + i < length, other=0.0)
                    afresh = (step == 0) | ((i_chunk + 1) % EVERY == 0)
                    crossing = tl.where(afresh, crossing * power(all_c), after - tl.sum(through_states, 0))
                    after = crossing + tl.sum(from_q, 0)
                    from_q += tl.sum(both, 1) - tl.sum(both, 0)
                    before_t = tl.cumsum(through_states, 0) - through_states
                    from_t = tl.sum(from_q, 0) - tl.cumsum(from_q, 0) + from_q
                    tl.store(here, crossing + before_t + from_t, mask=first + i < length)
            state = dot(value_t, b_key, state)
            out_t = dot(tl.trans(b_value), weights.to(dtype), out_t)
        out.store([first, first_row], tl.trans(out_t).to(dtype))
    return state
