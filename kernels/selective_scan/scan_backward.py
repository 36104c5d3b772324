"""The selective scan's backward pass in Triton.

Let g_t be the gradient of h_t and a_t = exp(dt_t A). A gradient needs either states, which only a walk forwards knows,
or g, which only a walk backwards knows:

    dC_t = Σ_d dy_t h_t        dB_t = Σ_d g_t x_t        dx_t = Σ_n g_t B_t        with x = dt ∘ u

but that of the decay's exponent, G_t = g_t ∘ a_t ∘ h_{t-1}, needs both. With e_t = a_{t+1} g_{t+1}, what g_t owes to
later outputs (so that g_t = C_t dy_t + e_t and G_{t+1} = e_t ∘ h_t),

    G_t = G_{t+1} + C_t dy_t ∘ a_t h_{t-1} − e_t ∘ x_t B_t

so each walk adds up its own term, and no state is ever stored. Both terms vanish where decays are fast. They are summed
in fp32 and start anew in each segment from what is exact at its end: e ∘ a h there, without the last token's own x B.
Of A alone the walk forwards can carry the derivative of the state, H_t = a_t ∘ (H_{t-1} + dt_t h_{t-1}): in
dA = Σ_t dy_t C_t ∘ H_t, plus e ∘ H at the end, nothing cancels.
"""

# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false

import triton
import triton.language as tl

from .scan_tiles import (
    LN2,
    LOG2E,
    channel_row,
    column,
    output_gradient,
    per_channel,
    state_row,
    step_size,
    store_state_row,
    tile,
)


@triton.jit(do_not_specialize=["T"])
def segment_gradients_kernel(
    dout, dt, A, C, z, bias, ends, dout_strides, dt_strides, C_strides, z_strides, T, channels,
    N: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, SEGMENT: tl.constexpr, SOFTPLUS: tl.constexpr,
):  # fmt: skip
    """Grid (blocks of D, segments, B): the gradient of the state before a segment, from its own outputs alone."""
    columns = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < channels
    batch = tl.program_id(2)
    pointers, known = tile(A, batch * 0, columns, inside, channels, N, WIDTH)
    rate = tl.load(pointers, mask=known, other=0.0) * LOG2E
    b_bias = per_channel(bias, columns, inside)
    first = tl.program_id(1) * SEGMENT
    last = tl.minimum(first + SEGMENT, T)
    e = tl.zeros([WIDTH, BLOCK], tl.float32)
    next_dt = channel_row(dt, dt_strides, batch, last - 1, columns, inside)
    next_z = channel_row(z, z_strides, batch, last - 1, columns, inside)
    next_dout = channel_row(dout, dout_strides, batch, last - 1, columns, inside)
    next_C = state_row(C, C_strides, batch, last - 1, N, WIDTH)
    for i in range(last - first):
        b_dt, b_z, b_dout, b_C = next_dt, next_z, next_dout, next_C
        ahead = tl.maximum(last - 2 - i, first)
        next_dt = channel_row(dt, dt_strides, batch, ahead, columns, inside)
        next_z = channel_row(z, z_strides, batch, ahead, columns, inside)
        next_dout = channel_row(dout, dout_strides, batch, ahead, columns, inside)
        next_C = state_row(C, C_strides, batch, ahead, N, WIDTH)
        step = step_size(b_dt.to(tl.float32) + b_bias, SOFTPLUS)
        dy = output_gradient(b_dout, b_z, z is not None)
        e = tl.exp2(step[None, :] * rate) * (e + dy[None, :] * column(b_C))
    place = batch * tl.num_programs(1) + tl.program_id(1)
    pointers, known = tile(ends, place, columns, inside, channels, N, WIDTH)
    tl.store(pointers, e, mask=known)


@triton.jit(do_not_specialize=["T"])
def gradients_kernel(
    u, dt, A, B, C, D, z, bias, dout, states, ends, terms, du, ddt, dz, dA, dB, dC, dD, dbias,
    u_strides, dt_strides, B_strides, C_strides, z_strides, dout_strides, T, channels,
    N: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, SEGMENT: tl.constexpr, SOFTPLUS: tl.constexpr,
):  # fmt: skip
    """Grid (blocks of D, segments, B).

    states: before each segment, ends: the gradient of the state after it, dA: [B, segments, N, D].
    du, ddt, dz: contiguous [B, T, D]; terms likewise, fp32, what the first walk leaves for the second.
    dB, dC: [blocks of D, B, T, N], summed over the block's channels. dD, dbias: [B, segments, D].
    """
    columns = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < channels
    batch = tl.program_id(2)
    place = batch * tl.num_programs(1) + tl.program_id(1)
    pointers, known = tile(A, batch * 0, columns, inside, channels, N, WIDTH)
    rate = tl.load(pointers, mask=known, other=0.0) * LOG2E
    pointers, known = tile(states, place, columns, inside, channels, N, WIDTH)
    kept = tl.load(pointers, mask=known, other=0.0)
    b_bias = per_channel(bias, columns, inside)
    skip = per_channel(D, columns, inside)
    first = tl.program_id(1) * SEGMENT
    last = tl.minimum(first + SEGMENT, T)
    block_rows = (tl.program_id(0) * tl.num_programs(2) + batch).to(tl.int64) * T
    rows = batch.to(tl.int64) * T
    # A token's own x B is added to what it kept with the next token: past the last one only what was kept is wanted.
    own_x, own_B = tl.zeros([BLOCK], tl.float32), tl.zeros([WIDTH], tl.float32)
    by_A = tl.zeros([WIDTH, BLOCK], tl.float32)
    b_dA = tl.zeros([WIDTH, BLOCK], tl.float32)
    next_u = channel_row(u, u_strides, batch, first, columns, inside)
    next_dt = channel_row(dt, dt_strides, batch, first, columns, inside)
    next_z = channel_row(z, z_strides, batch, first, columns, inside)
    next_dout = channel_row(dout, dout_strides, batch, first, columns, inside)
    next_B = state_row(B, B_strides, batch, first, N, WIDTH)
    next_C = state_row(C, C_strides, batch, first, N, WIDTH)
    for t in range(first, last):
        raw, b_u, b_z, dy = next_dt.to(tl.float32) + b_bias, next_u.to(tl.float32), next_z, next_dout.to(tl.float32)
        row_B, b_C = next_B.to(tl.float32), column(next_C)
        b_B = row_B[:, None]
        ahead = tl.minimum(t + 1, last - 1)
        next_u = channel_row(u, u_strides, batch, ahead, columns, inside)
        next_dt = channel_row(dt, dt_strides, batch, ahead, columns, inside)
        next_z = channel_row(z, z_strides, batch, ahead, columns, inside)
        next_dout = channel_row(dout, dout_strides, batch, ahead, columns, inside)
        next_B = state_row(B, B_strides, batch, ahead, N, WIDTH)
        next_C = state_row(C, C_strides, batch, ahead, N, WIDTH)
        step = step_size(raw, SOFTPLUS)
        x = step * b_u
        decay = tl.exp2(step[None, :] * rate)
        kept = decay * (kept + own_x[None, :] * own_B[:, None])
        by_A = decay * by_A + step[None, :] * kept
        own_x, own_B = x, row_B
        seen = kept * b_C
        row = (rows + t) * channels + columns
        if z is not None:
            gate = b_z.to(tl.float32)
            s = tl.sigmoid(gate)
            out = tl.sum(seen, 0) + x * tl.sum(b_B * b_C, 0) + skip * b_u
            tl.store(dz + row, (dy * out * s * (1.0 + gate * (1.0 - s))).to(dz.dtype.element_ty), mask=inside)
            dy *= gate * s
        b_dA += (dy[None, :] * b_C) * by_A
        tl.store(terms + row, dy * tl.sum(rate * seen, 0), mask=inside)
        b_dC = tl.sum(dy[None, :] * kept, 1) + tl.sum(dy * x, 0) * row_B
        store_state_row(dC, block_rows + t, b_dC, N, WIDTH)

    pointers, known = tile(ends, place, columns, inside, channels, N, WIDTH)
    e = tl.load(pointers, mask=known, other=0.0)
    exponent = tl.sum(rate * (e * kept), 0)  # e ∘ h without e ∘ x B of the last token, which may be all of it
    pointers, known = tile(dA, place, columns, inside, channels, N, WIDTH)
    tl.store(pointers, b_dA + e * by_A, mask=known)
    b_dD, b_dbias = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)
    tl.debug_barrier()  # `terms` may be read by other threads than wrote it
    next_u = channel_row(u, u_strides, batch, last - 1, columns, inside)
    next_dt = channel_row(dt, dt_strides, batch, last - 1, columns, inside)
    next_z = channel_row(z, z_strides, batch, last - 1, columns, inside)
    next_dout = channel_row(dout, dout_strides, batch, last - 1, columns, inside)
    next_B = state_row(B, B_strides, batch, last - 1, N, WIDTH)
    next_C = state_row(C, C_strides, batch, last - 1, N, WIDTH)
    next_term = tl.load(terms + (rows + last - 1) * channels + columns, mask=inside, other=0.0)
    for i in range(last - first):
        t = last - 1 - i
        raw, b_u, term = next_dt.to(tl.float32) + b_bias, next_u.to(tl.float32), next_term
        dy = output_gradient(next_dout, next_z, z is not None)
        b_B, b_C = column(next_B), column(next_C)
        ahead = tl.maximum(t - 1, first)
        next_u = channel_row(u, u_strides, batch, ahead, columns, inside)
        next_dt = channel_row(dt, dt_strides, batch, ahead, columns, inside)
        next_z = channel_row(z, z_strides, batch, ahead, columns, inside)
        next_dout = channel_row(dout, dout_strides, batch, ahead, columns, inside)
        next_B = state_row(B, B_strides, batch, ahead, N, WIDTH)
        next_C = state_row(C, C_strides, batch, ahead, N, WIDTH)
        next_term = tl.load(terms + (rows + ahead) * channels + columns, mask=inside, other=0.0)
        step = step_size(raw, SOFTPLUS)
        x = step * b_u
        given = e * b_B
        g = e + dy[None, :] * b_C
        store_state_row(dB, block_rows + t, tl.sum(g * x[None, :], 1), N, WIDTH)
        e = tl.exp2(step[None, :] * rate) * g
        dx = tl.sum(given, 0) + dy * tl.sum(b_B * b_C, 0)
        row = (rows + t) * channels + columns
        exponent += term - tl.where(i > 0, x, 0.0) * tl.sum(rate * given, 0)
        d_step = exponent * LN2 + b_u * dx
        if SOFTPLUS:
            d_step *= tl.sigmoid(raw)
        b_dD += dy * b_u
        b_dbias += d_step
        tl.store(du + row, (step * dx + skip * dy).to(du.dtype.element_ty), mask=inside)
        tl.store(ddt + row, d_step.to(ddt.dtype.element_ty), mask=inside)
    tl.store(dD + place.to(tl.int64) * channels + columns, b_dD, mask=inside)
    tl.store(dbias + place.to(tl.int64) * channels + columns, b_dbias, mask=inside)
