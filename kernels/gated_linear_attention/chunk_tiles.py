"""What the two chunk-parallel kernels of a decay per channel share: a chunk's rows, and sums of its decays.

**Scores without overflow.** With a decay per channel, q_i . k_j 2^(c_i - c_j) has no common factor to take out, and
2^(-c_j) alone overflows. Two ways of weighting q and k, one matrix product each, together cover all pairs i > j:

- *centred*: inside blocks of a size, 2^(c_i - h) q_i and 2^(h - c_j) k_j with h half of the block's decay. The size is
  the largest of TIME, TIME / 4, TIME / 16, ... for which no exponent passes LIMIT: the whole chunk, unless decays are
  fast.
- *levels*: for each larger size, queries from the second half of a block, keys from its first, both relative to the
  boundary b between them. 2^(c_i - c_b) and 2^(c_b - c_j) are at most 1: exact for any decay whatever.

Almost always the whole chunk can be centred. The kernels are therefore compiled twice: a lean form that does only
that, and says for which chunks it did not hold; and an EXACT form that does those chunks over, with everything above.

The sums of decays between rows are themselves products with matrices of 0, 1 and halves, so that nothing is ever a
small difference of large sums.
"""

import triton
import triton.language as tl

from .tiles import FASTEST, LOG2E, dot, first_row, power


@triton.jit
def tile(x, strides, batch, start, head, rows, columns, WIDTH: tl.constexpr):
    """Pointers to a tile of rows and columns of one head of x [B, T, H, WIDTH]."""
    return x + first_row(strides, batch, start, head) + rows[:, None] * strides[1] + columns[None, :]


@triton.jit
def sums(weights, x, dtype: tl.constexpr):
    """weights @ x for weights of 0, 1 and -1, to more than 16 bits: a float32 x enters 16-bit products as two parts."""
    w = weights.to(dtype)
    if dtype == x.dtype:
        total = dot(w, x)
    else:
        high = x.to(dtype)
        total = dot(w, high)
        total = dot(w, (x - high.to(tl.float32)).to(dtype), total)
    return total


@triton.jit
def load_decay(pointers, mask, dtype: tl.constexpr):
    """A tile of natural-log decays, in `dtype` or float32, whichever holds them."""
    loaded = tl.load(pointers, mask=mask, other=0.0)
    g = tl.maximum(loaded.to(tl.float32), FASTEST)
    if loaded.dtype == dtype:
        g = g.to(dtype)
    return g


@triton.jit
def level_masks(log2_half, TIME: tl.constexpr, STRICT: tl.constexpr):
    """For one level: which rows' decays lie between a row and its block's boundary, and which pairs (i, j) it covers.

    STRICT: a query's own decay does not count (with a bonus, o_t sees the state before t).
    """
    i, r = tl.arange(0, TIME)[:, None], tl.arange(0, TIME)[None, :]
    same = (i >> (log2_half + 1)) == (r >> (log2_half + 1))
    i_second, r_second = ((i >> log2_half) & 1) == 1, ((r >> log2_half) & 1) == 1
    if STRICT:
        after = i_second & r_second & (r < i)
    else:
        after = i_second & r_second & (r <= i)
    before = (i_second == 0) & (r_second == 0) & (r > i)
    return same & (after | before), same & i_second & (r_second == 0)


@triton.jit
def centred_exponents(g, log2_size, dtype: tl.constexpr, TIME: tl.constexpr, STRICT: tl.constexpr):
    """c_i minus half of the decay of i's block of 2^log2_size rows; 0 in blocks of one row, which have no pairs.

    STRICT: without i's own decay.
    """
    i, r = tl.arange(0, TIME)[:, None], tl.arange(0, TIME)[None, :]
    if STRICT:
        signs = tl.where(r < i, 0.5, -0.5)
    else:
        signs = tl.where(r <= i, 0.5, -0.5)
    together = ((i >> log2_size) == (r >> log2_size)) & (log2_size > 0)
    return sums(tl.where(together, signs, 0.0), g, dtype) * LOG2E


@triton.jit
def centre(g, dtype: tl.constexpr, TIME: tl.constexpr, LEVELS: tl.constexpr, LIMIT: tl.constexpr):
    """The block size (its log2) that LIMIT allows, and the keys' exponents relative to such blocks."""
    log2_size = tl.full((), LEVELS, tl.int32)
    exponents = centred_exponents(g, log2_size, dtype, TIME, False)
    while (log2_size > 0) & (tl.max(tl.abs(exponents)) > LIMIT):
        log2_size = tl.maximum(log2_size - 2, 0)
        exponents = centred_exponents(g, log2_size, dtype, TIME, False)
    return log2_size, exponents


@triton.jit
def centred_pairs(log2_size, TIME: tl.constexpr):
    """The pairs (i, j) that blocks of 2^log2_size cover: i after j."""
    i, j = tl.arange(0, TIME)[:, None], tl.arange(0, TIME)[None, :]
    return ((i >> log2_size) == (j >> log2_size)) & (i > j)


@triton.jit
def query_weights(g, x_q, total, dtype: tl.constexpr, TIME: tl.constexpr, STRICT: tl.constexpr, EXACT: tl.constexpr):
    """2^c, what queries are weighted with for the states; total: the chunk's log2 decay C.

    Not EXACT: from the weights x_q, which are then centred on the whole chunk.
    """
    i, r = tl.arange(0, TIME)[:, None], tl.arange(0, TIME)[None, :]
    if EXACT:
        weights = power(sums((r < i) if STRICT else (r <= i), g, dtype) * LOG2E)
    else:
        weights = x_q * power(total * 0.5)[None, :]
    return weights


@triton.jit
def key_weights(g, x_k, total, dtype: tl.constexpr, TIME: tl.constexpr, EXACT: tl.constexpr):
    """2^(C - c), what keys are weighted with for the states; as `query_weights`."""
    i, r = tl.arange(0, TIME)[:, None], tl.arange(0, TIME)[None, :]
    if EXACT:
        weights = power(sums(r > i, g, dtype) * LOG2E)
    else:
        weights = x_k * power(total * 0.5)[None, :]
    return weights
