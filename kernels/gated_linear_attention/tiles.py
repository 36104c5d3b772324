"""What the kernels of this folder share: kinds of decay, tiles of rows, a chunk's decay, products.

A *chunk* is the TIME consecutive tokens a program handles at once; a *segment* is the run of chunks one program scans
(a whole sequence, unless it was split to fill the GPU). Decays are natural logarithms in memory and base 2 in
registers.
"""

# Triton's decorator hides its kernels' types.
# pyright: reportArgumentType=false, reportGeneralTypeIssues=false

import triton
import triton.language as tl

NONE, HEAD, TOKEN, CHANNEL = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2), tl.constexpr(3)
SUMMED = tl.constexpr(4)  # per token or head, as `summed_decays` leaves them
LOG2E = tl.constexpr(1.4426950408889634)
# exp(-90) is below float32's smallest normal number: what decays faster is gone either way, and -inf stays finite.
FASTEST = tl.constexpr(-90.0)


@triton.jit
def dot(a, b, accumulator=None):
    """a @ b (+ accumulator) in float32; float32 operands keep float32's precision on the matrix units."""
    return tl.dot(a, b, accumulator, input_precision="tf32x3")


@triton.jit
def first_row(strides, batch, start, head):
    """Offset of a head's row at token `start` in a tensor with these strides of batch, time and head."""
    return batch.to(tl.int64) * strides[0] + start.to(tl.int64) * strides[1] + head.to(tl.int64) * strides[2]


@triton.jit
def rows_at(x, stride, length, WIDTH: tl.constexpr, TIME: tl.constexpr, BLOCK: tl.constexpr):
    """`rows` from x itself on."""
    return tl.make_tensor_descriptor(x, shape=[length, WIDTH], strides=[stride, 1], block_shape=[TIME, BLOCK])


@triton.jit
def rows(
    x, strides, batch, start, head, length,
    WIDTH: tl.constexpr, TIME: tl.constexpr, BLOCK: tl.constexpr, NEAR: tl.constexpr = False,
):  # fmt: skip
    """The rows [length, WIDTH] of one head of x [B, T, H, WIDTH] from token `start` on, as tiles [TIME, BLOCK].

    Loads past the end give 0, stores past the end are dropped. NEAR: by pointers, as a descriptor is first
    written to memory, which short scans wait for.
    """
    x += first_row(strides, batch, start, head)
    if NEAR:
        tile = x + tl.arange(0, TIME)[:, None] * strides[1] + tl.arange(0, BLOCK)[None, :]
        tiles = (tile, strides[1], length, WIDTH)
    else:
        tiles = rows_at(x, strides[1], length, WIDTH, TIME, BLOCK)
    return tiles


@triton.jit
def load(x, row, column):
    """The tile of `rows` at this row and column."""
    if hasattr(x, "load"):  # a descriptor, not pointers
        values = x.load([row, column])
    else:
        pointers, inside = _tile(x, row, column)
        values = tl.load(pointers, mask=inside, other=0.0)
    return values


@triton.jit
def store(x, row, column, values):
    """`values` to the tile of `rows` at this row and column."""
    if hasattr(x, "store"):  # a descriptor, not pointers
        x.store([row, column], values)
    else:
        pointers, inside = _tile(x, row, column)
        tl.store(pointers, values, mask=inside)


@triton.jit
def _tile(x, row, column):
    tile, stride, length, width = x
    i, j = tl.arange(0, tile.shape[0]), tl.arange(0, tile.shape[1])
    return tile + (row * stride + column), (row + i < length)[:, None] & (column + j < width)[None, :]


@triton.jit
def segment(i_segment, cu_seqlens, T, segment_length, segments, VARLEN: tl.constexpr):
    """Where a segment lies: (batch, its first token, its number of tokens, its sequence)."""
    if VARLEN:
        start = tl.load(cu_seqlens + i_segment)
        length = tl.load(cu_seqlens + i_segment + 1) - start
        batch = i_segment * 0
        sequence = i_segment
    else:
        sequence = i_segment // segments
        start = (i_segment % segments) * segment_length
        length = tl.minimum(segment_length, T - start)
        batch = sequence
    return batch, start, length, sequence


@triton.jit
def scalar_decay(decay, stride, first, length, TIME: tl.constexpr, KIND: tl.constexpr, PRECISE: tl.constexpr):
    """log2 decay from a chunk's start through each of its rows [TIME], and through all of it.

    Rows past the end neither decay nor matter. PRECISE sums in float64: the differences of two sums that the kernels
    form then keep float32's precision whatever came before.
    """
    i = tl.arange(0, TIME)
    if KIND == SUMMED:
        decay += first * stride
        return tl.load(decay + i), tl.load(decay + TIME - 1)
    if KIND == TOKEN:
        row = first + i
        g = log2_decay(tl.load(decay + row.to(tl.int64) * stride, mask=row < length, other=0.0), PRECISE)
        return tl.cumsum(g, 0), tl.sum(g, 0)
    g = log2_decay(tl.load(decay), PRECISE)
    n = tl.minimum(TIME, length - first)
    return g * tl.minimum(i + 1, n).to(g.dtype), g * n.to(g.dtype)


@triton.jit
def log2_decay(g, PRECISE: tl.constexpr):
    """Natural-log decays as log2, in float32 or, PRECISE, float64; none faster than FASTEST."""
    g = tl.maximum(g.to(tl.float32), FASTEST) * LOG2E
    return g.to(tl.float64) if PRECISE else g


@triton.jit
def power(exponent):
    """2 ** exponent in float32."""
    return tl.math.exp2(exponent.to(tl.float32))
