"""The norms' Triton kernels, for rows [M, groups, SIZE] each of whose groups is normalised by itself.

    n = u / sqrt(share · Σ u² + eps)                      share: 1/SIZE (RMS norm) or 1 (l2 norm)
    y = n ∘ w                                             NONE:   u = x
    y = n ∘ w                                             BEFORE: u = x ∘ silu(z)
    y = n ∘ w ∘ silu(z)                                   AFTER:  u = x

The backward pass computes n again, from inputs that it reads anyway: nothing but them is kept from the forward pass.
"""

import triton
import triton.language as tl

NONE, BEFORE, AFTER = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)


@triton.jit
def places(strides, rows, group, columns):
    """Offsets of a tile of rows of one group."""
    return rows.to(tl.int64)[:, None] * strides[0] + group.to(tl.int64) * strides[1] + columns[None, :]


@triton.jit
def scales(weight, weight_stride, group, columns, SIZE: tl.constexpr):
    """The group's weights [1, BLOCK], or 1."""
    if weight is not None:
        w = tl.load(weight + group * weight_stride + columns, mask=columns < SIZE, other=0.0).to(tl.float32)
    else:
        w = tl.full([columns.shape[0]], 1.0, tl.float32)
    return w[None, :]


@triton.jit
def forward_kernel(
    x, z, weight, y, x_strides, z_strides, y_strides, weight_stride, M, eps, share,
    SIZE: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, GATE: tl.constexpr,
):  # fmt: skip
    """Grid (blocks of ROWS rows, groups)."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, BLOCK)
    group = tl.program_id(1)
    inside = (rows < M)[:, None] & (columns < SIZE)[None, :]
    u = tl.load(x + places(x_strides, rows, group, columns), mask=inside, other=0.0).to(tl.float32)
    gate = tl.full([ROWS, BLOCK], 1.0, tl.float32)
    if GATE != NONE:
        b_z = tl.load(z + places(z_strides, rows, group, columns), mask=inside, other=0.0).to(tl.float32)
        gate = b_z * tl.sigmoid(b_z)
    w = scales(weight, weight_stride, group, columns, SIZE)
    if GATE == BEFORE:
        u *= gate
    out = u * tl.rsqrt(tl.sum(u * u, 1) * share + eps)[:, None] * w
    if GATE == AFTER:
        out *= gate
    tl.store(y + places(y_strides, rows, group, columns), out.to(y.dtype.element_ty), mask=inside)


@triton.jit
def backward_kernel(
    x, z, weight, dy, dx, dz, parts, x_strides, z_strides, dy_strides, dx_strides, weight_stride, M, eps, share, run,
    SIZE: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, GATE: tl.constexpr,
):  # fmt: skip
    """Grid (programs, groups): each does `run` blocks of ROWS rows, one after another.

    dx, dz: of dx_strides. parts: [programs, groups, SIZE] or None, each program's sum for the gradient of the weights.
    """
    columns = tl.arange(0, BLOCK)
    group = tl.program_id(1)
    w = scales(weight, weight_stride, group, columns, SIZE)
    dw = tl.zeros([ROWS, BLOCK], tl.float32)
    for i in range(run):
        rows = (tl.program_id(0) * run + i) * ROWS + tl.arange(0, ROWS)
        inside = (rows < M)[:, None] & (columns < SIZE)[None, :]
        b_x = tl.load(x + places(x_strides, rows, group, columns), mask=inside, other=0.0).to(tl.float32)
        d = tl.load(dy + places(dy_strides, rows, group, columns), mask=inside, other=0.0).to(tl.float32)
        out = places(dx_strides, rows, group, columns)
        if GATE != NONE:
            b_z = tl.load(z + places(z_strides, rows, group, columns), mask=inside, other=0.0).to(tl.float32)
            s = tl.sigmoid(b_z)
            gate = b_z * s
            slope = s * (1.0 + b_z * (1.0 - s))
        u = b_x
        if GATE == BEFORE:
            u *= gate
        r = tl.rsqrt(tl.sum(u * u, 1) * share + eps)[:, None]
        n = u * r
        if GATE == AFTER:
            tl.store(dz + out, (d * w * n * slope).to(dz.dtype.element_ty), mask=inside)
            d *= gate
        dw += d * n
        d *= w
        du = r * (d - n * (share * tl.sum(n * d, 1))[:, None])
        if GATE == BEFORE:
            tl.store(dz + out, (du * b_x * slope).to(dz.dtype.element_ty), mask=inside)
            du *= gate
        tl.store(dx + out, du.to(dx.dtype.element_ty), mask=inside)
    if parts is not None:
        part = (tl.program_id(0) * tl.num_programs(1) + group).to(tl.int64) * SIZE
        tl.store(parts + part + columns, tl.sum(dw, 0), mask=columns < SIZE)
