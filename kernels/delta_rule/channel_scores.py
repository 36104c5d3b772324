"""A decay per channel, before the scan: a chunk's scores, and its readers and writers weighted for the states.

Readers q and a meet the state, writers b and k add to it. With c the cumulative log2 decay in the chunk and C its last,

    scores_ij = sum_c reader_ic writer_jc 2^(c_i - c_j)         reader~ = 2^c reader         writer^ = 2^(C - c) writer

for q with j <= i. For a with j < i, and dplr's a reads before its own token's decay: there c_(i-1) takes the place of
c_i. The delta rule is the same with a = -beta k, read after the decay, and b = k.

`chunk_tiles` of gated_linear_attention says why there are a lean and an EXACT form: the lean one centres whole chunks
and says for which chunks it did not hold; the EXACT one does those over, by levels only.
"""

# Triton's decorator hides its kernels' types.
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false, reportAssignmentType=false

import triton
import triton.language as tl

from ..gated_linear_attention.chunk_tiles import centred_exponents, level_masks, load_decay, sums, tile
from ..gated_linear_attention.places import tokens_of
from ..gated_linear_attention.tiles import LOG2E, dot, power


@triton.jit
def own_tile(x, place, head, H, rows, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Pointers into the tile of one chunk and head in a buffer [places, H, ROWS, COLUMNS]."""
    return x + (place.to(tl.int64) * H + head) * (ROWS * COLUMNS) + rows[:, None] * COLUMNS + columns[None, :]


@triton.jit
def load_input(x, strides, batch, start, head, i, columns, inside, WIDTH: tl.constexpr):
    """A tile of one head's rows of x [B, T, H, WIDTH]."""
    return tl.load(tile(x, strides, batch, start, head, i, columns, WIDTH), mask=inside, other=0.0)


@triton.jit
def load_beta(beta, strides, batch, start, head, length, i):
    """beta of a chunk's rows, float32."""
    base = beta + batch.to(tl.int64) * strides[0] + start.to(tl.int64) * strides[1] + head.to(tl.int64) * strides[2]
    return tl.load(base + i * strides[1], mask=i < length, other=0.0).to(tl.float32)


@triton.jit
def lean_weights(g, dtype: tl.constexpr, TIME: tl.constexpr, LEVELS: tl.constexpr, STRICT: tl.constexpr):
    """Weights of q, of a and of the writers, centred on the whole chunk; half of its decay; the largest exponent.

    STRICT: a reads before its own token's decay.
    """
    e = centred_exponents(g, LEVELS, dtype, TIME, False)
    total = tl.sum(g.to(tl.float32), 0) * LOG2E
    x_q = power(e)
    x_a = power(e - g.to(tl.float32) * LOG2E) if STRICT else x_q
    return x_q, x_a, power(-e), power(total * 0.5)[None, :], total, tl.max(tl.abs(e))


@triton.jit
def exact_weights(g, dtype: tl.constexpr, TIME: tl.constexpr, STRICT: tl.constexpr):
    """2^c for q and for a, 2^(C - c) for the writers, each from sums of its own; C."""
    i, r = tl.arange(0, TIME)[:, None], tl.arange(0, TIME)[None, :]
    of_q = power(sums(r <= i, g, dtype) * LOG2E)
    of_a = power(sums(r < i, g, dtype) * LOG2E) if STRICT else of_q
    of_w = power(sums(r > i, g, dtype) * LOG2E)
    return of_q, of_a, of_w, tl.sum(g.to(tl.float32), 0) * LOG2E


@triton.jit
def level_weights(g, log2_half, dtype: tl.constexpr, TIME: tl.constexpr, STRICT: tl.constexpr):
    """For one level: weights of q, a and the writers relative to the boundary, and the pairs (i, j) it covers."""
    between, pairs = level_masks(log2_half, TIME, False)
    x = power(sums(between, g, dtype) * LOG2E)
    x_a = x
    if STRICT:
        strictly, _ = level_masks(log2_half, TIME, True)
        x_a = power(sums(strictly, g, dtype) * LOG2E)
    return x, x_a, pairs


@triton.jit
def score_writer(
    writer, writer_strides, weighted, of_a, of_q, q, a, beta, decay, weighted_q, weighted_a, total,
    place, batch, start, head, length, scale, H, q_strides, a_strides, beta_strides, decay_strides,
    K: tl.constexpr, WIDTH: tl.constexpr, GROUP: tl.constexpr, TIME: tl.constexpr, LEVELS: tl.constexpr,
    BLOCK: tl.constexpr, CENTRED: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    """Store the scores of both readers with one writer, and the weighted writer; readers too where asked.

    a None: the readers' a is made of the writer. Returns the largest exponent.
    """
    STRICT: tl.constexpr = a is not None
    i = tl.arange(0, TIME)
    after, own = i[:, None] > i[None, :], i[:, None] == i[None, :]
    dtype = weighted.dtype.element_ty
    largest = tl.full((), 0.0, tl.float32)
    s_a, s_q = tl.zeros([TIME, TIME], tl.float32), tl.zeros([TIME, TIME], tl.float32)
    if not STRICT:
        b_beta = load_beta(beta, beta_strides, batch, start, head, length, i)
    for first_k in range(0, WIDTH, BLOCK):
        o_k = first_k + tl.arange(0, BLOCK)
        inside = (i[:, None] < length) & (o_k[None, :] < K)
        b_w = load_input(writer, writer_strides, batch, start, head // GROUP, i, o_k, inside, K)
        b_q = load_input(q, q_strides, batch, start, head // GROUP, i, o_k, inside, K)
        g = load_decay(tile(decay, decay_strides, batch, start, head, i, o_k, K), inside, dtype)
        if STRICT:
            b_a = load_input(a, a_strides, batch, start, head // GROUP, i, o_k, inside, K).to(tl.float32)
        else:
            b_a = b_w.to(tl.float32) * -b_beta[:, None]
        b_q, b_w = b_q.to(tl.float32) * scale, b_w.to(tl.float32)
        if EXACT:
            to_q, to_a, to_w, b_total = exact_weights(g, dtype, TIME, STRICT)
            for log2_half in range(LEVELS):
                x, x_a, pairs = level_weights(g, log2_half, dtype, TIME, STRICT)
                w_x = tl.trans((b_w * x).to(CENTRED))
                s_a += tl.where(pairs, dot((b_a * x_a).to(CENTRED), w_x), 0.0)
                s_q += tl.where(pairs, dot((b_q * x).to(CENTRED), w_x), 0.0)
            s_q += tl.where(own, tl.sum(b_q * b_w, 1)[:, None], 0.0)
        else:
            x_q, x_a, x_w, half, b_total, size = lean_weights(g, dtype, TIME, LEVELS, STRICT)
            largest = tl.maximum(largest, size)
            w_x = tl.trans((b_w * x_w).to(CENTRED))
            s_a = dot((b_a * x_a).to(CENTRED), w_x, s_a)
            s_q = dot((b_q * x_q).to(CENTRED), w_x, s_q)
            to_q, to_a, to_w = x_q * half, x_a * half, x_w * half
        tl.store(own_tile(weighted, place, head, H, i, o_k, TIME, WIDTH), (b_w * to_w).to(dtype))
        if weighted_q is not None:
            tl.store(own_tile(weighted_q, place, head, H, i, o_k, TIME, WIDTH), (b_q * to_q).to(dtype))
            tl.store(own_tile(weighted_a, place, head, H, i, o_k, TIME, WIDTH), (b_a * to_a).to(dtype))
            tl.store(total + (place.to(tl.int64) * H + head) * WIDTH + o_k, b_total)
    tl.store(own_tile(of_a, place, head, H, i, i, TIME, TIME), tl.where(after, s_a, 0.0).to(dtype))
    tl.store(own_tile(of_q, place, head, H, i, i, TIME, TIME), tl.where(after | own, s_q, 0.0).to(dtype))
    return largest


@triton.jit(do_not_specialize=["T"])
def channel_scores(
    q, a, b, k, beta, decay, weighted_q, weighted_a, weighted_b, weighted_k, a_b, a_k, q_b, q_k, total, lean,
    sequence_of, cu_seqlens, scale, T, H, q_strides, a_strides, b_strides, k_strides, beta_strides, decay_strides,
    K: tl.constexpr, WIDTH: tl.constexpr, GROUP: tl.constexpr, TIME: tl.constexpr, LEVELS: tl.constexpr,
    BLOCK: tl.constexpr, CENTRED: tl.constexpr, LIMIT: tl.constexpr, VARLEN: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    """Grid (places * H). q, a, b, k: [B, T, Hk, K]; the delta rule's: a and k None, b its keys.

    weighted_*: [places, H, TIME, WIDTH], q's times scale. Scores, named reader_writer: [places, H, TIME, TIME].
    total: [places, H, WIDTH], log2. lean: int8 [places, H], whether the lean form was enough for a chunk.
    CENTRED: the dtype that holds 2^LIMIT.
    """
    place, head = tl.program_id(0) // H, tl.program_id(0) % H
    batch, start, length = tokens_of(place, sequence_of, cu_seqlens, T, TIME, VARLEN)
    if length <= 0:
        return
    lean += place.to(tl.int64) * H + head
    if EXACT:
        if tl.load(lean) != 0:
            return
    largest = score_writer(
        b, b_strides, weighted_b, a_b, q_b, q, a, beta, decay, weighted_q, weighted_a, total,
        place, batch, start, head, length, scale, H, q_strides, a_strides, beta_strides, decay_strides,
        K, WIDTH, GROUP, TIME, LEVELS, BLOCK, CENTRED, EXACT,
    )  # fmt: skip
    if k is not None:
        score_writer(
            k, k_strides, weighted_k, a_k, q_k, q, a, beta, decay, None, None, None,
            place, batch, start, head, length, scale, H, q_strides, a_strides, beta_strides, decay_strides,
            K, WIDTH, GROUP, TIME, LEVELS, BLOCK, CENTRED, EXACT,
        )  # fmt: skip
    if not EXACT:
        tl.store(lean, (largest <= LIMIT).to(tl.int8))
