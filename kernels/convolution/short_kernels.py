"""The short convolution's Triton kernels: each program walks along time with the last inputs in its registers.

    before_t = bias + Σ_lag weight_lag ∘ x_{t-lag}           y_t = before_t, or silu(before_t)

So every input is read once, although W outputs depend on it. The backward pass walks the same way: as soon as the
gradient g_t of `before_t` is known, its share in the gradients of x_t .. x_{t-3} is added to sums that are still in
registers, and g_t x_{t-lag} to the weights' gradient, of which each program writes its part once. Filters narrower than
four taps are filters of four taps whose oldest weights are zero.
"""

# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false

import triton
import triton.language as tl

TAPS = tl.constexpr(4)


@triton.jit
def weight_of(weight, lag: tl.constexpr, columns, inside, WIDTH: tl.constexpr):
    """The weights of the inputs `lag` tokens back; weight [D, WIDTH] is contiguous."""
    if lag < WIDTH:
        return tl.load(weight + columns.to(tl.int64) * WIDTH + (WIDTH - 1 - lag), mask=inside, other=0.0).to(tl.float32)
    return tl.zeros([columns.shape[0]], tl.float32)


@triton.jit
def input_at(x, past, t, stride, columns, inside, D, WIDTH: tl.constexpr):
    """The input at time t of a sequence: before its first token that of `past` [WIDTH-1, D], or 0."""
    value = tl.load(x + t.to(tl.int64) * stride + columns, mask=inside & (t >= 0), other=0.0).to(tl.float32)
    if past is not None:
        slot = t + WIDTH - 1
        value += tl.load(past + slot * D + columns, mask=inside & (t < 0) & (slot >= 0), other=0.0).to(tl.float32)
    return value


@triton.jit
def own(value, lag: tl.constexpr, age, past, columns, inside, D, WIDTH: tl.constexpr, VARLEN: tl.constexpr):
    """`value`, the row's input `lag` tokens back, where that is of the same sequence; else what `past` holds, or 0.

    age: the number of tokens of the sequence before this one.
    """
    if VARLEN:
        value = tl.where(age >= lag, value, 0.0)
        if past is not None:
            slot = age - lag + WIDTH - 1
            value += tl.load(past + slot * D + columns, mask=inside & (age < lag) & (slot >= 0), other=0.0).to(
                tl.float32
            )
    return value


@triton.jit
def age_and_past(t, T, batch, past, starts, sequences, D, WIDTH: tl.constexpr, VARLEN: tl.constexpr):
    """How many tokens of its sequence precede token t, its sequence, and where the inputs before that begin."""
    if VARLEN:
        known = t < T
        age = t - tl.load(starts + t, mask=known, other=0)
        sequence = tl.load(sequences + t, mask=known, other=0)
    else:
        age = t
        sequence = batch
    if past is not None:
        past += sequence.to(tl.int64) * (WIDTH - 1) * D
    return age, sequence, past


@triton.jit
def convolved(x0, x1, x2, x3, w0, w1, w2, w3, b):
    """The output before its activation, from the inputs 0 to 3 tokens back."""
    return b + w0 * x0 + w1 * x1 + w2 * x2 + w3 * x3


@triton.jit
def forward_token(
    t, x0, x1, x2, x3, w0, w1, w2, w3, b, past, y, starts, sequences, T, D, batch, columns, inside,
    WIDTH: tl.constexpr, SILU: tl.constexpr, VARLEN: tl.constexpr,
):  # fmt: skip
    if VARLEN:
        age, _, past = age_and_past(t, T, batch, past, starts, sequences, D, WIDTH, VARLEN)
        x1 = own(x1, 1, age, past, columns, inside, D, WIDTH, VARLEN)
        x2 = own(x2, 2, age, past, columns, inside, D, WIDTH, VARLEN)
        x3 = own(x3, 3, age, past, columns, inside, D, WIDTH, VARLEN)
    out = convolved(x0, x1, x2, x3, w0, w1, w2, w3, b)
    if SILU:
        out *= tl.sigmoid(out)
    tl.store(y + t.to(tl.int64) * D + columns, out.to(y.dtype.element_ty), mask=inside & (t < T))


@triton.jit(do_not_specialize=["T"])
def forward_kernel(
    x, weight, bias, past, starts, sequences, y, x_strides, T, D, length,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, SILU: tl.constexpr, VARLEN: tl.constexpr,
):  # fmt: skip
    """Grid (blocks of D, runs of `length` tokens, B).

    past: [N, W-1, D]. starts, sequences: of each packed token, its sequence's first token and its sequence.
    """
    columns = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < D
    first = tl.program_id(1) * length
    batch = tl.program_id(2)
    x += batch.to(tl.int64) * x_strides[0]
    y += batch.to(tl.int64) * T * D
    w0, w1 = weight_of(weight, 0, columns, inside, WIDTH), weight_of(weight, 1, columns, inside, WIDTH)
    w2, w3 = weight_of(weight, 2, columns, inside, WIDTH), weight_of(weight, 3, columns, inside, WIDTH)
    b = tl.zeros([BLOCK], tl.float32)
    if bias is not None:
        b += tl.load(bias + columns, mask=inside, other=0.0).to(tl.float32)
    before = past
    if past is not None:
        before += batch.to(tl.int64) * (WIDTH - 1) * D
    x1 = input_at(x, before, first - 1, x_strides[1], columns, inside, D, WIDTH)
    x2 = input_at(x, before, first - 2, x_strides[1], columns, inside, D, WIDTH)
    x3 = input_at(x, before, first - 3, x_strides[1], columns, inside, D, WIDTH)
    for t in range(first, tl.minimum(first + length, T), TAPS):
        # All loads of four tokens are under way before the first is used.
        row = x + tl.cast(t, tl.int64) * x_strides[1] + columns
        a = tl.load(row, mask=inside, other=0.0)
        c = tl.load(row + x_strides[1], mask=inside & (t + 1 < T), other=0.0)
        d = tl.load(row + 2 * x_strides[1], mask=inside & (t + 2 < T), other=0.0)
        e = tl.load(row + 3 * x_strides[1], mask=inside & (t + 3 < T), other=0.0)
        a, c, d, e = a.to(tl.float32), c.to(tl.float32), d.to(tl.float32), e.to(tl.float32)
        forward_token(tl.cast(t, tl.int32), a, x1, x2, x3, w0, w1, w2, w3, b, past, y, starts, sequences, T, D,
                      batch, columns, inside, WIDTH, SILU, VARLEN)  # fmt: skip
        forward_token(tl.cast(t + 1, tl.int32), c, a, x1, x2, w0, w1, w2, w3, b, past, y, starts, sequences, T, D,
                      batch, columns, inside, WIDTH, SILU, VARLEN)  # fmt: skip
        forward_token(tl.cast(t + 2, tl.int32), d, c, a, x1, w0, w1, w2, w3, b, past, y, starts, sequences, T, D,
                      batch, columns, inside, WIDTH, SILU, VARLEN)  # fmt: skip
        forward_token(tl.cast(t + 3, tl.int32), e, d, c, a, w0, w1, w2, w3, b, past, y, starts, sequences, T, D,
                      batch, columns, inside, WIDTH, SILU, VARLEN)  # fmt: skip
        x1, x2, x3 = e, d, c


@triton.jit
def backward_token(
    t, x0, x1, x2, x3, dy, p1, p2, p3, g_w0, g_w1, g_w2, g_w3, g_b, w0, w1, w2, w3, b, past, edge, dx,
    starts, sequences, first, last, T, D, batch, columns, inside,
    WIDTH: tl.constexpr, SILU: tl.constexpr, VARLEN: tl.constexpr, OWNED: tl.constexpr,
):  # fmt: skip
    """Take token t, store dx_{t-3}; return the unfinished gradients of x_t, x_{t-1}, x_{t-2} and the weights' sums.

    OWNED: t lies in this program's run, so that it counts towards the weights; else only its share in dx is wanted.
    """
    age, sequence, past = age_and_past(t, T, batch, past, starts, sequences, D, WIDTH, VARLEN)
    x1 = own(x1, 1, age, past, columns, inside, D, WIDTH, VARLEN)
    x2 = own(x2, 2, age, past, columns, inside, D, WIDTH, VARLEN)
    x3 = own(x3, 3, age, past, columns, inside, D, WIDTH, VARLEN)
    g = dy
    if SILU:
        out = convolved(x0, x1, x2, x3, w0, w1, w2, w3, b)
        s = tl.sigmoid(out)
        g *= s * (1.0 + out * (1.0 - s))
    if OWNED:
        g_w0, g_w1, g_w2, g_w3, g_b = g_w0 + g * x0, g_w1 + g * x1, g_w2 + g * x2, g_w3 + g * x3, g_b + g
        if past is not None:
            place = edge + (sequence.to(tl.int64) * (WIDTH - 1) + age) * D + columns
            tl.store(place, g, mask=inside & (age < WIDTH - 1) & (t < T))
    h1, h2, h3 = w1 * g, w2 * g, w3 * g
    if VARLEN:
        h1, h2, h3 = tl.where(age >= 1, h1, 0.0), tl.where(age >= 2, h2, 0.0), tl.where(age >= 3, h3, 0.0)
    done = t - 3
    place = dx + done.to(tl.int64) * D + columns
    tl.store(place, (p3 + h3).to(dx.dtype.element_ty), mask=inside & (done >= first) & (done < last))
    return w0 * g, p1 + h1, p2 + h2, g_w0, g_w1, g_w2, g_w3, g_b


@triton.jit
def backward_tokens(
    t, x, dy, x1, x2, x3, p1, p2, p3, g_w0, g_w1, g_w2, g_w3, g_b, w0, w1, w2, w3, b, past, edge, dx, starts, sequences,
    x_stride, dy_stride, first, last, T, D, batch, columns, inside,
    WIDTH: tl.constexpr, SILU: tl.constexpr, VARLEN: tl.constexpr, OWNED: tl.constexpr,
):  # fmt: skip
    """Four tokens from t on, their loads first."""
    t = tl.cast(t, tl.int32)
    row, dy_row = x + t.to(tl.int64) * x_stride + columns, dy + t.to(tl.int64) * dy_stride + columns
    in0, in1, in2, in3 = inside & (t < T), inside & (t + 1 < T), inside & (t + 2 < T), inside & (t + 3 < T)
    a, g0 = tl.load(row, mask=in0, other=0.0), tl.load(dy_row, mask=in0, other=0.0)
    c, g1 = tl.load(row + x_stride, mask=in1, other=0.0), tl.load(dy_row + dy_stride, mask=in1, other=0.0)
    d, g2 = tl.load(row + 2 * x_stride, mask=in2, other=0.0), tl.load(dy_row + 2 * dy_stride, mask=in2, other=0.0)
    e, g3 = tl.load(row + 3 * x_stride, mask=in3, other=0.0), tl.load(dy_row + 3 * dy_stride, mask=in3, other=0.0)
    a, c, d, e = a.to(tl.float32), c.to(tl.float32), d.to(tl.float32), e.to(tl.float32)
    g0, g1, g2, g3 = g0.to(tl.float32), g1.to(tl.float32), g2.to(tl.float32), g3.to(tl.float32)
    p1, p2, p3, g_w0, g_w1, g_w2, g_w3, g_b = backward_token(
        t, a, x1, x2, x3, g0, p1, p2, p3, g_w0, g_w1, g_w2, g_w3, g_b, w0, w1, w2, w3, b, past, edge, dx,
        starts, sequences, first, last, T, D, batch, columns, inside, WIDTH, SILU, VARLEN, OWNED)  # fmt: skip
    p1, p2, p3, g_w0, g_w1, g_w2, g_w3, g_b = backward_token(
        t + 1, c, a, x1, x2, g1, p1, p2, p3, g_w0, g_w1, g_w2, g_w3, g_b, w0, w1, w2, w3, b, past, edge, dx,
        starts, sequences, first, last, T, D, batch, columns, inside, WIDTH, SILU, VARLEN, OWNED)  # fmt: skip
    p1, p2, p3, g_w0, g_w1, g_w2, g_w3, g_b = backward_token(
        t + 2, d, c, a, x1, g2, p1, p2, p3, g_w0, g_w1, g_w2, g_w3, g_b, w0, w1, w2, w3, b, past, edge, dx,
        starts, sequences, first, last, T, D, batch, columns, inside, WIDTH, SILU, VARLEN, OWNED)  # fmt: skip
    p1, p2, p3, g_w0, g_w1, g_w2, g_w3, g_b = backward_token(
        t + 3, e, d, c, a, g3, p1, p2, p3, g_w0, g_w1, g_w2, g_w3, g_b, w0, w1, w2, w3, b, past, edge, dx,
        starts, sequences, first, last, T, D, batch, columns, inside, WIDTH, SILU, VARLEN, OWNED)  # fmt: skip
    return e, d, c, p1, p2, p3, g_w0, g_w1, g_w2, g_w3, g_b


@triton.jit(do_not_specialize=["T"])
def backward_kernel(
    x, weight, bias, past, starts, sequences, dy, dx, parts, edge, x_strides, dy_strides, T, D, length,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, SILU: tl.constexpr, VARLEN: tl.constexpr,
):  # fmt: skip
    """Grid (blocks of D, runs of `length` tokens, B); `length` is a multiple of four.

    dx: contiguous [B, T, D]. parts: [B * runs, WIDTH + 1, D], each program's sums for the weights and the bias.
    edge: [N, W-1, D], with `past`: the gradient at each sequence's first W-1 tokens before the activation.
    """
    columns = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < D
    first = tl.program_id(1) * length
    last = tl.minimum(first + length, T)
    batch = tl.program_id(2)
    x += batch.to(tl.int64) * x_strides[0]
    dy += batch.to(tl.int64) * dy_strides[0]
    dx += batch.to(tl.int64) * T * D
    w0, w1 = weight_of(weight, 0, columns, inside, WIDTH), weight_of(weight, 1, columns, inside, WIDTH)
    w2, w3 = weight_of(weight, 2, columns, inside, WIDTH), weight_of(weight, 3, columns, inside, WIDTH)
    b = tl.zeros([BLOCK], tl.float32)
    if bias is not None:
        b += tl.load(bias + columns, mask=inside, other=0.0).to(tl.float32)
    before = past
    if past is not None:
        before += batch.to(tl.int64) * (WIDTH - 1) * D
    x1 = input_at(x, before, first - 1, x_strides[1], columns, inside, D, WIDTH)
    x2 = input_at(x, before, first - 2, x_strides[1], columns, inside, D, WIDTH)
    x3 = input_at(x, before, first - 3, x_strides[1], columns, inside, D, WIDTH)
    p1, p2, p3 = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)
    g_w0, g_w1, g_w2, g_w3, g_b = p1, p1, p1, p1, p1
    for t in range(first, last, TAPS):
        x1, x2, x3, p1, p2, p3, g_w0, g_w1, g_w2, g_w3, g_b = backward_tokens(
            t, x, dy, x1, x2, x3, p1, p2, p3, g_w0, g_w1, g_w2, g_w3, g_b, w0, w1, w2, w3, b, past, edge, dx,
            starts, sequences, x_strides[1], dy_strides[1], first, last, T, D, batch, columns, inside,
            WIDTH, SILU, VARLEN, True)  # fmt: skip
    backward_tokens(
        first + tl.cdiv(last - first, TAPS) * TAPS, x, dy, x1, x2, x3, p1, p2, p3, g_w0, g_w1, g_w2, g_w3, g_b,
        w0, w1, w2, w3, b, past, edge, dx, starts, sequences, x_strides[1], dy_strides[1], first, last, T, D, batch,
        columns, inside, WIDTH, SILU, VARLEN, False)  # fmt: skip
    part = parts + (batch * tl.num_programs(1) + tl.program_id(1)).to(tl.int64) * (WIDTH + 1) * D + columns
    tl.store(part + (WIDTH - 1) * D, g_w0, mask=inside)
    if WIDTH > 1:
        tl.store(part + (WIDTH - 2) * D, g_w1, mask=inside)
    if WIDTH > 2:
        tl.store(part + (WIDTH - 3) * D, g_w2, mask=inside)
    if WIDTH > 3:
        tl.store(part + (WIDTH - 4) * D, g_w3, mask=inside)
    tl.store(part + WIDTH * D, g_b, mask=inside)


@triton.jit
def step_kernel(
    x, weight, bias, state, y, x_stride, D,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, SILU: tl.constexpr,
):  # fmt: skip
    """Grid (blocks of D, B): one token; state [B, WIDTH-1, D], contiguous, is shifted in place."""
    columns = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < D
    row = tl.program_id(1).to(tl.int64)
    x0 = tl.load(x + row * x_stride + columns, mask=inside, other=0.0).to(tl.float32)
    out = weight_of(weight, 0, columns, inside, WIDTH) * x0
    if bias is not None:
        out += tl.load(bias + columns, mask=inside, other=0.0).to(tl.float32)
    oldest = state + row * (WIDTH - 1) * D + columns
    for i in tl.static_range(WIDTH - 1):
        value = tl.load(oldest + i * D, mask=inside, other=0.0)
        out += weight_of(weight, WIDTH - 1 - i, columns, inside, WIDTH) * value.to(tl.float32)
        if i > 0:
            tl.store(oldest + (i - 1) * D, value, mask=inside)
    if WIDTH > 1:
        tl.store(oldest + (WIDTH - 2) * D, x0.to(state.dtype.element_ty), mask=inside)
    if SILU:
        out *= tl.sigmoid(out)
    tl.store(y + row * D + columns, out.to(y.dtype.element_ty), mask=inside)
