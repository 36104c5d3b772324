"""What the selective scan's Triton kernels share: rows of the inputs, decays, the carry from segment to segment.

A program is one warp. It holds the states of BLOCK channels as a tile [WIDTH, BLOCK] (WIDTH is N, padded) and walks
along one *segment* of SEGMENT tokens, whose inputs it loads one token ahead. Segments run at the same time: a first
kernel finds what each makes of an empty state, `carry_kernel` chains these through the segments' decays, and then every
segment is done from its true state. Decays are base 2 in registers.
"""

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
def channel_row(x, strides, batch, t, columns, inside):
    """x[batch, t] of these channels, in x's dtype; 0 where x is None."""
    if x is not None:
        place = x + batch.to(tl.int64) * strides[0] + tl.cast(t, tl.int64) * strides[1] + columns
        row = tl.load(place, mask=inside, other=0.0)
    else:  # no early return: Triton compiles what follows one
        row = tl.zeros([columns.shape[0]], tl.float32)
    return row


@triton.jit
def state_row(x, strides, batch, t, N: tl.constexpr, WIDTH: tl.constexpr):
    """x[batch, t] of B or C, [WIDTH] in x's dtype."""
    n = tl.arange(0, WIDTH)
    place = x + batch.to(tl.int64) * strides[0] + tl.cast(t, tl.int64) * strides[1] + n
    if N == WIDTH:
        return tl.load(place)
    return tl.load(place, mask=n < N, other=0.0)


@triton.jit
def column(row):
    """[WIDTH] as [WIDTH, 1] in float32."""
    return row.to(tl.float32)[:, None]


@triton.jit
def store_state_row(x, place, row, N: tl.constexpr, WIDTH: tl.constexpr):
    n = tl.arange(0, WIDTH)
    tl.store(x + place * N + n, row, mask=n < N)


@triton.jit
def tile(x, place, columns, inside, channels, N: tl.constexpr, WIDTH: tl.constexpr):
    """Pointers to and mask of the tile at `place` of an array [places, N, channels]."""
    n = tl.arange(0, WIDTH)[:, None]
    return x + (place.to(tl.int64) * N + n) * channels + columns[None, :], (n < N) & inside[None, :]


@triton.jit
def softplus(x):
    """log(1 + e^x) to float32's relative precision, which decays e^(dt A) need where dt A is large.

    log(1 + e) is 2 artanh(e / (2 + e)), here with e ≤ 1; 1 + e by itself would round a small e away.
    """
    e = tl.exp(-tl.abs(x))
    s = e / (2.0 + e)
    q = s * s
    series = 1.0 + q * (1 / 3 + q * (1 / 5 + q * (1 / 7 + q * (1 / 9 + q * (1 / 11 + q * (1 / 13))))))
    return tl.maximum(x, 0.0) + 2.0 * s * series


@triton.jit
def step_size(raw, SOFTPLUS: tl.constexpr):
    """The time step of each channel."""
    return softplus(raw) if SOFTPLUS else raw


@triton.jit
def per_channel(x, columns, inside):
    """x [D] of these channels in float32, or 0."""
    if x is not None:
        return tl.load(x + columns, mask=inside, other=0.0).to(tl.float32)
    return tl.zeros([columns.shape[0]], tl.float32)


@triton.jit
def output_gradient(dout, gate, GATED: tl.constexpr):
    """Gradient of y before its gate."""
    dy = dout.to(tl.float32)
    if GATED:
        gate = gate.to(tl.float32)
        dy *= gate * tl.sigmoid(gate)
    return dy


@triton.jit
def segment(made, steps, s, channels, N: tl.constexpr, inside):
    """What segment s makes of an empty state, and the sum of its time steps."""
    s = tl.cast(s, tl.int64)
    return tl.load(made + s * N * channels, mask=inside, other=0.0), tl.load(
        steps + s * channels, mask=inside, other=0.0
    )


@triton.jit
def chained(state, places, made, rate, step, s, channels, N: tl.constexpr, inside):
    """Store what segment s starts from; return what it leaves (past the last segment: what it started from)."""
    tl.store(places + tl.cast(s, tl.int64) * N * channels, state, mask=inside)
    return tl.exp2(rate * step) * state + made


@triton.jit(do_not_specialize=["segments"])
def carry_kernel(
    states, steps, A, first, last, segments, channels,
    N: tl.constexpr, BLOCK: tl.constexpr, REVERSE: tl.constexpr,
):  # fmt: skip
    """Grid (blocks of D, N, B): chain the segments, forwards or backwards in time.

    states: [B, segments, N, D], in: what a segment makes of an empty state; out: the state it starts from.
    steps: [B, segments, D], the sum of a segment's time steps. A: [N, D].
    first: the state before all [B, N, D] or None. last: the state after all.
    """
    columns = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < channels
    n = tl.program_id(1)
    batch = tl.program_id(2).to(tl.int64)
    rate = tl.load(A + n * channels + columns, mask=inside, other=0.0) * LOG2E
    state = tl.zeros([BLOCK], tl.float32)
    edge = (batch * N + n) * channels + columns
    if first is not None:
        state += tl.load(first + edge, mask=inside, other=0.0)
    rate_of_step = steps + batch * segments * channels + columns
    made = states + (batch * segments * N + n) * channels + columns
    for i in range(0, segments, 4):
        # The loads of four segments are under way before the first is used.
        s0 = segments - 1 - i if REVERSE else i
        s1, s2, s3 = (s0 - 1, s0 - 2, s0 - 3) if REVERSE else (s0 + 1, s0 + 2, s0 + 3)
        in0, in1 = inside, inside & (i + 1 < segments)
        in2, in3 = inside & (i + 2 < segments), inside & (i + 3 < segments)
        made0, step0 = segment(made, rate_of_step, s0, channels, N, in0)
        made1, step1 = segment(made, rate_of_step, s1, channels, N, in1)
        made2, step2 = segment(made, rate_of_step, s2, channels, N, in2)
        made3, step3 = segment(made, rate_of_step, s3, channels, N, in3)
        state = chained(state, made, made0, rate, step0, s0, channels, N, in0)
        state = chained(state, made, made1, rate, step1, s1, channels, N, in1)
        state = chained(state, made, made2, rate, step2, s2, channels, N, in2)
        state = chained(state, made, made3, rate, step3, s3, channels, N, in3)
    tl.store(last + edge, state, mask=inside)
