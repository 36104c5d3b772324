"""The selective scan's forward pass in Triton: the segments' own states, then all outputs."""

# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false

import triton
import triton.language as tl

from .scan_tiles import LOG2E, channel_row, column, per_channel, state_row, step_size, tile


@triton.jit(do_not_specialize=["T"])
def segment_states_kernel(
    u, dt, A, B, bias, states, steps, u_strides, dt_strides, B_strides, T, channels,
    N: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, SEGMENT: tl.constexpr, SOFTPLUS: tl.constexpr,
):  # fmt: skip
    """Grid (blocks of D, segments, B): the state after each segment that starts empty, and its sum of time steps."""
    columns = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < channels
    batch = tl.program_id(2)
    place = batch * tl.num_programs(1) + tl.program_id(1)
    pointers, known = tile(A, batch * 0, columns, inside, channels, N, WIDTH)
    rate = tl.load(pointers, mask=known, other=0.0) * LOG2E
    b_bias = per_channel(bias, columns, inside)
    first = tl.program_id(1) * SEGMENT
    last = tl.minimum(first + SEGMENT, T)
    h = tl.zeros([WIDTH, BLOCK], tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    next_u = channel_row(u, u_strides, batch, first, columns, inside)
    next_dt = channel_row(dt, dt_strides, batch, first, columns, inside)
    next_B = state_row(B, B_strides, batch, first, N, WIDTH)
    for t in range(first, last):
        b_u, b_dt, b_B = next_u, next_dt, next_B
        ahead = tl.minimum(t + 1, last - 1)
        next_u = channel_row(u, u_strides, batch, ahead, columns, inside)
        next_dt = channel_row(dt, dt_strides, batch, ahead, columns, inside)
        next_B = state_row(B, B_strides, batch, ahead, N, WIDTH)
        step = step_size(b_dt.to(tl.float32) + b_bias, SOFTPLUS)
        x = step * b_u.to(tl.float32)
        h = tl.exp2(step[None, :] * rate) * h + x[None, :] * column(b_B)
        total += step
    pointers, known = tile(states, place, columns, inside, channels, N, WIDTH)
    tl.store(pointers, h, mask=known)
    tl.store(steps + place.to(tl.int64) * channels + columns, total, mask=inside)


@triton.jit(do_not_specialize=["T"])
def outputs_kernel(
    u, dt, A, B, C, D, z, bias, states, y, u_strides, dt_strides, B_strides, C_strides, z_strides, T, channels,
    N: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, SEGMENT: tl.constexpr, SOFTPLUS: tl.constexpr,
):  # fmt: skip
    """Grid (blocks of D, segments, B): y [B, T, D], contiguous, from the states before each segment."""
    columns = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < channels
    batch = tl.program_id(2)
    pointers, known = tile(A, batch * 0, columns, inside, channels, N, WIDTH)
    rate = tl.load(pointers, mask=known, other=0.0) * LOG2E
    place = batch * tl.num_programs(1) + tl.program_id(1)
    pointers, known = tile(states, place, columns, inside, channels, N, WIDTH)
    h = tl.load(pointers, mask=known, other=0.0)
    b_bias = per_channel(bias, columns, inside)
    skip = per_channel(D, columns, inside)
    first = tl.program_id(1) * SEGMENT
    last = tl.minimum(first + SEGMENT, T)
    next_u = channel_row(u, u_strides, batch, first, columns, inside)
    next_dt = channel_row(dt, dt_strides, batch, first, columns, inside)
    next_z = channel_row(z, z_strides, batch, first, columns, inside)
    next_B = state_row(B, B_strides, batch, first, N, WIDTH)
    next_C = state_row(C, C_strides, batch, first, N, WIDTH)
    for t in range(first, last):
        b_u, b_dt, b_z, b_B, b_C = next_u, next_dt, next_z, next_B, next_C
        ahead = tl.minimum(t + 1, last - 1)
        next_u = channel_row(u, u_strides, batch, ahead, columns, inside)
        next_dt = channel_row(dt, dt_strides, batch, ahead, columns, inside)
        next_z = channel_row(z, z_strides, batch, ahead, columns, inside)
        next_B = state_row(B, B_strides, batch, ahead, N, WIDTH)
        next_C = state_row(C, C_strides, batch, ahead, N, WIDTH)
        step, b_u = step_size(b_dt.to(tl.float32) + b_bias, SOFTPLUS), b_u.to(tl.float32)
        h = tl.exp2(step[None, :] * rate) * h + (step * b_u)[None, :] * column(b_B)
        out = tl.sum(h * column(b_C), 0) + skip * b_u
        if z is not None:
            gate = b_z.to(tl.float32)
            out *= gate * tl.sigmoid(gate)
        row = y + (batch.to(tl.int64) * T + t) * channels + columns
        tl.store(row, out.to(y.dtype.element_ty), mask=inside)
