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

**The decay's gradient.** The decay at t scales whatever passes from before t to t or later, which is what leaves the
chunk, less what set out later, plus what arrived from before:

    E + sum over i >= t of (q_i . dq_i - k_i . dk_i)         E = 2^C <S, dS> + sum of the k_i . dk_i through dS

with S before the chunk and dS after it. What passes inside the chunk cancels in the sum, as both scans round the same
weights; and E takes its k . dk from the scan that they are subtracted in. From chunk to chunk E could follow by adding
the differences up, but rounding accumulates there: it is computed afresh at every EVERY-th chunk. The scan of dq leaves
S and q . dq behind, that of dk leaves E and k . dk, and `decay_gradient` adds them up. In float32 what a token gives
itself, which no decay touches, stays out of both: where nearly all decays away it would be most of them, and its
rounding most of what is left.

**Factors.** A factor a token multiplies either its value, before it enters the state, or its column of out. Linear
attention's normaliser uses them, and a sum z of keys that goes along with the state (`normaliser`); so does Mamba-2's
step (`value_scale`).
"""

# Triton's decorator hides its kernels' types.
# pyright: reportArgumentType=false, reportAssignmentType=false, reportGeneralTypeIssues=false

import triton
import triton.language as tl

from .normaliser import inverse_denominators, of_tokens, product
from .tiles import CHANNEL, HEAD, NONE, dot, load, log2_decay, power, scalar_decay, store

# What a scan does for the decay's gradient.
NOTHING, LEAVE, END, EXCHANGE = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2), tl.constexpr(3)
# Parts that sums over a state's rows are left in, so that no warp waits for another; `decay_gradient` adds them up.
PARTS = tl.constexpr(4)


@triton.jit
def scan(
    query, key, value, out, state, first_row, length, scale,
    decay, decay_stride, total, scores, H,
    companion, along, part_stride, fresh, fresh_stride, saved, o_row, o_column, row_stride, column_stride,
    takes_part, factor, extra, inverse, sums, saved_sums, skip,
    K: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, TIME: tl.constexpr, STAGES: tl.constexpr,
    EVERY: tl.constexpr, KIND: tl.constexpr, PRECISE: tl.constexpr,
    BACKWARD: tl.constexpr, BY_ROW: tl.constexpr, GRADIENT: tl.constexpr, FACTOR_OF_VALUES: tl.constexpr,
    ONE_CHUNK: tl.constexpr = False,
):  # fmt: skip
    """Run over a segment of `length` tokens; returns the state it ends with, and the sums.

    query, key, value, out, scores, companion: tiles of a head's rows (`tiles.rows`); scores None without a part inside
    chunks. state: [block of ROWS from first_row on, COLUMNS]. BY_ROW: the state's rows, not its columns, are the keys'
    channels. total: [chunks, H, K], for a decay per channel. For the decay's gradient: companion, what goes along with
    out (q with dq, k with dk), and along [length], their products, part_stride from part to part; fresh: E or, for a
    decay per channel, sum_v S dS [chunks, H, K]; saved: states, [chunks / EVERY, H, ...] with the strides given.
    takes_part: whether this program does any of it. EXCHANGE: saved holds dS after EVERY chunks and gets S before them,
    fresh [chunks / EVERY, H], or None, their product <S, dS>.

    factor: [length, H], of each token's value or, not FACTOR_OF_VALUES, column of out. skip: a number; out gets its
    product with value more. For the normaliser, with scale 1
    (None without): extra [length, H], the sums that go along with the state, by column in the forward pass and by row
    in its gradients, saved_sums as saved, and inverse [length, H], which the forward pass leaves if it takes part.
    """
    i = tl.arange(0, TIME)
    if BACKWARD:
        reaches = i[:, None] >= i[None, :]
    else:
        reaches = i[:, None] <= i[None, :]
    inside = (o_row[:, None] < ROWS) & (o_column[None, :] < COLUMNS)
    part = tl.arange(0, PARTS)
    if KIND == HEAD and out is not None:  # the same in every chunk
        between = power(tl.abs(i[:, None] - i[None, :]) * log2_decay(tl.load(decay), PRECISE))
    ROWS_HELD: tl.constexpr = state.shape[0]
    OWN_APART: tl.constexpr = PRECISE and GRADIENT != NOTHING and companion is not None
    chunks = 1 if ONE_CHUNK else tl.cdiv(length, TIME)
    here = o_row[:, None] * row_stride + o_column[None, :] * column_stride
    if GRADIENT == EXCHANGE and fresh is not None:
        other = tl.load(saved + here, mask=inside, other=0.0)  # a chunk before it is needed
    for step in tl.range(chunks, num_stages=STAGES):
        i_chunk = chunks - 1 - step if BACKWARD else step
        first = i_chunk * TIME
        b_key = load(key, first, 0)
        b_value = load(value, first, first_row)
        dtype = b_value.dtype
        if GRADIENT == EXCHANGE:
            starts_afresh = i_chunk % EVERY == 0
        else:
            starts_afresh = (i_chunk + 1) % EVERY == 0 or first + TIME >= length
        crossing = tl.zeros([ROWS_HELD], tl.float32)
        if GRADIENT != NOTHING:
            there = saved + tl.cast(i_chunk // EVERY, tl.int64) * H * ROWS * COLUMNS + here
            if GRADIENT == LEAVE and BACKWARD:
                tl.store(there, state.to(dtype), mask=inside & starts_afresh)
            elif starts_afresh and takes_part:
                if GRADIENT == EXCHANGE:
                    if fresh is not None:
                        tl.store(fresh + (i_chunk // EVERY) * H, tl.sum(other.to(tl.float32) * state))
                    tl.store(there, state.to(dtype), mask=inside)
                elif GRADIENT == LEAVE:
                    tl.store(there, state.to(dtype), mask=inside)
                    if saved_sums is not None:
                        sums_here = saved_sums + tl.cast(i_chunk // EVERY, tl.int64) * H * ROWS
                        tl.store(sums_here + o_row, sums, mask=o_row < ROWS)
                else:
                    crossing = tl.sum(tl.load(there, mask=inside, other=0.0).to(tl.float32) * state, 1) * scale
                    if saved_sums is not None:
                        sums_here = saved_sums + tl.cast(i_chunk // EVERY, tl.int64) * H * ROWS
                        crossing += tl.load(sums_here + o_row, mask=o_row < ROWS, other=0.0) * sums
            if GRADIENT == EXCHANGE and fresh is not None:
                after = tl.cast(i_chunk + 1, tl.int64)
                wanted = inside & (after % EVERY == 0) & (after < chunks)
                other = tl.load(saved + after // EVERY * H * ROWS * COLUMNS + here, mask=wanted, other=0.0)
        if out is not None:
            b_query = load(query, first, 0)
            b_state = state.to(dtype)
            out_t = dot(b_state, tl.trans(b_query))
            if extra is not None and not FACTOR_OF_VALUES and not PRECISE:  # what of the state dq's two parts cancel
                out_t += dot((state - b_state.to(tl.float32)).to(dtype), tl.trans(b_query))
        if KIND == CHANNEL:
            if out is not None:
                out_t *= scale
            if GRADIENT == END:
                channels = fresh + tl.cast(i_chunk, tl.int64) * H * K + o_row
                tl.store(channels, crossing, mask=o_row < K)
            if scores is not None:
                b_scores = load(scores, first, 0)
                out_t += dot(tl.trans(b_value), b_scores if BACKWARD else tl.trans(b_scores)) * scale
            o_k = o_row if BY_ROW else o_column
            keep = power(tl.load(total + i_chunk * H * K + o_k, mask=o_k < K, other=0.0))
            state *= keep[:, None] if BY_ROW else keep[None, :]
            state = dot(tl.trans(b_value), b_key, state)
        else:
            if out is not None:
                weights = dot(b_key, tl.trans(b_query))
                if KIND == NONE:
                    out_t *= scale
            value_t = tl.trans(b_value)
            if factor is not None:
                b_factor = of_tokens(factor, first, length, H, True, TIME)
            if extra is not None:
                b_extra = of_tokens(extra, first, length, H, takes_part, TIME)
                weights += b_extra[:, None] if FACTOR_OF_VALUES else b_extra[None, :]
                out_t += sums[:, None] if FACTOR_OF_VALUES else sums[:, None] * b_extra[None, :]
            if factor is not None and FACTOR_OF_VALUES and out is not None:
                weights *= b_factor[:, None]
            if inverse is not None:
                through = product(b_query, sums)
                of_value = tl.full([TIME], 1.0, tl.float32)
            if KIND != NONE:
                c, all_c = scalar_decay(decay, decay_stride, first, length, TIME, KIND, PRECISE)
                to_query, from_value = (all_c - c, c) if BACKWARD else (c, all_c - c)
                if out is not None:
                    weights *= between if KIND == HEAD else power(to_query[None, :] - to_query[:, None])
                    out_t *= (power(to_query) * scale)[None, :]
                of_value = power(from_value)
                if factor is not None and FACTOR_OF_VALUES:
                    of_value *= b_factor
                value_t = (value_t.to(tl.float32) * of_value[None, :]).to(dtype)
                state *= power(all_c)
                if sums is not None:
                    sums *= power(all_c)
                if inverse is not None:
                    through *= power(to_query)
            elif factor is not None and FACTOR_OF_VALUES:
                value_t = (value_t.to(tl.float32) * b_factor[None, :]).to(dtype)
            if inverse is not None:
                sums += product(tl.trans(b_key), of_value)
            elif extra is not None:
                sums += product(value_t, b_extra if FACTOR_OF_VALUES else tl.full([TIME], 1.0, tl.float32))
            if GRADIENT == END:
                b_companion = tl.trans(companion.load([first, first_row])).to(tl.float32)
            if GRADIENT == END and starts_afresh and takes_part:
                by_row = crossing * power(all_c) + tl.sum(b_companion * out_t, 1)
                by_part = tl.sum(tl.reshape(by_row, [PARTS, ROWS_HELD // PARTS]), 1)
                tl.store(fresh + (i_chunk // EVERY) * H + part * fresh_stride, by_part)
            state = dot(value_t, b_key, state)
            if out is not None:
                weights = tl.where(reaches, weights * scale, 0.0)
                if OWN_APART:
                    own = tl.sum(tl.where(i[:, None] == i[None, :], weights, 0.0), 0)
                    weights = tl.where(i[:, None] == i[None, :], 0.0, weights)
                if inverse is not None:
                    b_factor = inverse_denominators(weights, through, first, length, TIME)
                    row = first + i
                    tl.store(inverse + row.to(tl.int64) * H, b_factor, mask=(row < length) & takes_part)
                out_t = dot(tl.trans(b_value), weights.to(dtype), out_t)
                if inverse is not None or (factor is not None and not FACTOR_OF_VALUES):
                    out_t *= b_factor[None, :]
                    if OWN_APART:
                        own *= b_factor
                if skip is not None:
                    out_t += tl.trans(b_value).to(tl.float32) * tl.load(skip).to(tl.float32)
            if GRADIENT == LEAVE and companion is not None:
                b_companion = tl.trans(companion.load([first, first_row])).to(tl.float32)
            if GRADIENT != NOTHING and companion is not None:
                products = along + (first + i)[None, :] + part[:, None] * part_stride
                by_part = tl.sum(tl.reshape(b_companion * out_t, [PARTS, ROWS_HELD // PARTS, TIME]), 1)
                tl.store(products, by_part, mask=(first + i < length)[None, :] & takes_part)
            if OWN_APART:
                out_t += tl.trans(b_value).to(tl.float32) * own[None, :]
        if out is not None:
            store(out, first, first_row, tl.trans(out_t).to(dtype))
    return state, sums
