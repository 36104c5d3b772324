"""What the tokens of a chunk make of each other: A = (I + strict lower(beta_i k_i . k_j e^(c_i - c_j)))^-1, per chunk.

With c the cumulative decay inside a chunk, A turns what each token would write alone into what it writes after the
tokens before it (the WY or UT form, Yang et al. 2024, "Parallelizing linear transformers with the delta rule", section
3). It depends on no state, so that all chunks are inverted at once, before the scans.

**The inverse by doubling.** The inverse D of the blocks of n tokens along the diagonal gives that of blocks of 2n,

    D - D L' D        L' what of the triangle lies between the two halves of each new block,

which is block forward substitution: stable where the powers of L, of other closed forms, are not. With |k| = 1 and
beta <= 2 no entry of any of these matrices is above 2 (each is beta k^T times contractions times k), so that 16-bit
inputs are inverted in float16: ten bits of mantissa, and room enough.
"""

# Triton's decorator hides its kernels' types.
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false

import triton
import triton.language as tl

from ..gated_linear_attention.places import tokens_of
from ..gated_linear_attention.tiles import NONE, dot, first_row, power, scalar_decay


@triton.jit
def load_beta(beta, stride, first, length, TIME: tl.constexpr, LEAST: tl.constexpr):
    """beta of a chunk's tokens [TIME], none nearer to 0 than LEAST: what a token writes then determines its error."""
    row = first + tl.arange(0, TIME)
    loaded = tl.load(beta + row.to(tl.int64) * stride, mask=row < length, other=0.0).to(tl.float32)
    return tl.where(tl.abs(loaded) < LEAST, LEAST, loaded)


@triton.jit
def since(c, reaches):
    """The decay between tokens, 2^(c_i - c_j), where `reaches`, else 0."""
    return power(tl.where(reaches, c[:, None] - c[None, :], float("-inf")))


@triton.jit
def unit_lower_inverse(lower, dtype: tl.constexpr, SIZE: tl.constexpr, LEVELS: tl.constexpr):
    """(I + lower)^-1 [SIZE, SIZE] in float32, its products taken in `dtype`; SIZE = 2^LEVELS."""
    i, j = tl.arange(0, SIZE)[:, None], tl.arange(0, SIZE)[None, :]
    negative = (-lower).to(dtype)
    inverse = tl.where(i == j, 1.0, 0.0)
    for level in tl.static_range(LEVELS):
        # Pairs from the second half of a block of 2^(level + 1) tokens to its first.
        first_half = tl.where(((i >> level) & 1) == 1, (i >> level) - 1, -1)
        between = tl.where(first_half == (j >> level), negative, 0.0)
        if level == 0:
            inverse += between
        else:
            narrow = inverse.to(dtype)
            inverse = dot(narrow, dot(between, narrow).to(dtype), inverse)
    return inverse


@triton.jit(do_not_specialize=["T"])
def invert_chunks(
    k, beta, decay, inverse, sequence_of, cu_seqlens, T, H, k_strides, beta_strides, decay_strides, inverse_strides,
    K: tl.constexpr, FULL_K: tl.constexpr, GROUP: tl.constexpr, TIME: tl.constexpr, LEVELS: tl.constexpr,
    LEAST: tl.constexpr, KIND: tl.constexpr, PRECISE: tl.constexpr, VARLEN: tl.constexpr,
):  # fmt: skip
    """Grid (chunks * H,). inverse: [B, T, H, TIME], a token's row of its chunk's A."""
    place, head = tl.program_id(0) // H, tl.program_id(0) % H
    batch, start, length = tokens_of(place, sequence_of, cu_seqlens, T, TIME, VARLEN)
    if length > 0:
        i, j, channel = tl.arange(0, TIME)[:, None], tl.arange(0, TIME)[None, :], tl.arange(0, FULL_K)[None, :]
        b_k = tl.load(
            k + first_row(k_strides, batch, start, head // GROUP) + (i * k_strides[1] + channel),
            mask=(i < length) & (channel < K), other=0.0,
        )  # fmt: skip
        b_beta = load_beta(beta + first_row(beta_strides, batch, start, head), beta_strides[1], 0, length, TIME, LEAST)
        lower = dot(b_k, tl.trans(b_k)) * b_beta[:, None]
        if KIND != NONE:
            here = decay + first_row(decay_strides, batch, start, head)
            c, _ = scalar_decay(here, decay_strides[1], 0, length, TIME, KIND, PRECISE)
            lower *= since(c, i >= j)
        solved = unit_lower_inverse(lower, tl.float32 if PRECISE else tl.float16, TIME, LEVELS)
        out = inverse + first_row(inverse_strides, batch, start, head) + (i * inverse_strides[1] + j)
        tl.store(out, solved.to(inverse.dtype.element_ty), mask=i < length)
