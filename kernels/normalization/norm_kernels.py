"""The norms' Triton kernels, for rows [M, groups, SIZE] each of whose groups is normalised by itself.

    n = u / sqrt(mean u² + eps)     or with MEAN off     n = u / sqrt(Σ u² + eps)
    y = n ∘ w                                             NONE:   u = x
    y = n ∘ w                                             BEFORE: u = x ∘ silu(z)
    y = n ∘ w ∘ silu(z)                                   AFTER:  u = x

The backward pass computes n again, from inputs that it reads anyway: nothing but them is kept from the forward pass.
"""

# Triton's decorator hides its kernels' types.
# pyright: reportGeneralTypeIssues=false

import triton
import triton.language as tl

NONE, BEFORE, AFTER = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)


@triton.jit
def places(row_stride, group_stride, rows, group, columns):
    """Offsets of a tile of rows of one group."""
    return rows.to(tl.int64)[:, None] * row_stride + group.to(tl.int64) * group_stride + columns[None, :]


@triton.jit
def scales(weight, group, columns, SIZE: tl.constexpr, SHARED: tl.constexpr):
    """The weights [1, BLOCK] of a group (SHARED: of every group), or 1."""
    if weight is not None:
        first = 0 if SHARED else group * SIZE
        w = tl.load(weight + first + columns, mask=columns < SIZE, other=0.0).to(tl.float32)
    else:
        w = tl.full([columns.shape[0]], 1.0, tl.float32)
    return w[None, :]


@triton.jit
def reciprocal(u, eps, SIZE: tl.constexpr, MEAN: tl.constexpr):
    """1 / sqrt(mean u² + eps) of every row, [ROWS, 1]."""
    total = tl.sum(u * u, 1)
    if MEAN:
        total *= 1.0 / SIZE
    return tl.rsqrt(total + eps)[:, None]


@triton.jit(do_not_specialize=["M"])
def forward_kernel(
    x, z, weight, y, x_row, x_group, z_row, z_group, M, eps,
    SIZE: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
    GATE: tl.constexpr, MEAN: tl.constexpr, SHARED: tl.constexpr,
):  # fmt: skip
    """Grid (blocks of ROWS rows, groups). y: contiguous."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, BLOCK)
    group = tl.program_id(1)
    inside = (rows < M)[:, None] & (columns < SIZE)[None, :]
    u = tl.load(x + places(x_row, x_group, rows, group, columns), mask=inside, other=0.0).to(tl.float32)
    gate = tl.full([ROWS, BLOCK], 1.0, tl.float32)
    if GATE != NONE:
        b_z = tl.load(z + places(z_row, z_group, rows, group, columns), mask=inside, other=0.0).to(tl.float32)
        gate = b_z * tl.sigmoid(b_z)
    w = scales(weight, group, columns, SIZE, SHARED)
    if GATE == BEFORE:
        u *= gate
    out = u * reciprocal(u, eps, SIZE, MEAN) * w
    if GATE == AFTER:
        out *= gate
    places_y = places(tl.num_programs(1) * SIZE, SIZE, rows, group, columns)
    tl.store(y + places_y, out.to(y.dtype.element_ty), mask=inside)


@triton.jit
def gradients(b_x, b_z, d, w, eps, SIZE: tl.constexpr, GATE: tl.constexpr, MEAN: tl.constexpr):
    """Of a tile: the gradients of x and z, and each element's share in that of the weights."""
    u, gate, slope = b_x, b_x, b_x
    if GATE != NONE:
        s = tl.sigmoid(b_z)
        gate = b_z * s
        slope = s * (1.0 + b_z * (1.0 - s))
    if GATE == BEFORE:
        u = b_x * gate
    r = reciprocal(u, eps, SIZE, MEAN)
    n = u * r
    dz = slope
    if GATE == AFTER:
        dz = d * w * n * slope
        d *= gate
    dw = d * n
    along = tl.sum(dw * w, 1)[:, None]
    if MEAN:
        along *= 1.0 / SIZE
    dx = r * (d * w - n * along)
    if GATE == BEFORE:
        dz = dx * b_x * slope
        dx *= gate
    return dx, dz, dw


@triton.jit
def tile(x, row_stride, group_stride, rows, group, columns, M, SIZE: tl.constexpr):
    """A tile of rows of one group in x's dtype; zeros beyond the last row."""
    inside = (rows < M)[:, None] & (columns < SIZE)[None, :]
    return tl.load(x + places(row_stride, group_stride, rows, group, columns), mask=inside, other=0.0)


@triton.jit(do_not_specialize=["M", "run"])
def backward_kernel(
    x, z, weight, dy, dx, dz, parts, x_row, x_group, z_row, z_group, dy_row, dy_group, M, eps, run,
    SIZE: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
    GATE: tl.constexpr, MEAN: tl.constexpr, SHARED: tl.constexpr,
):  # fmt: skip
    """Grid (programs, groups): each does `run` blocks of ROWS rows, one after another and loaded one ahead.

    dx, dz: contiguous. parts: [programs, groups, SIZE], each program's sum for the gradient of the weights; without
    weights it is None, and `run` one.
    """
    columns = tl.arange(0, BLOCK)
    group = tl.program_id(1)
    w = scales(weight, group, columns, SIZE, SHARED)
    sums = tl.zeros([ROWS, BLOCK], tl.float32)
    rows = tl.program_id(0) * run * ROWS + tl.arange(0, ROWS)
    next_x = tile(x, x_row, x_group, rows, group, columns, M, SIZE)
    next_d = tile(dy, dy_row, dy_group, rows, group, columns, M, SIZE)
    next_z = tile(z, z_row, z_group, rows, group, columns, M, SIZE) if GATE != NONE else next_x
    for i in range(run):
        b_x, d, b_z, here = next_x.to(tl.float32), next_d.to(tl.float32), next_z.to(tl.float32), rows
        if parts is not None:
            rows += ROWS
            ahead = tl.where(i + 1 < run, rows, M)  # past the last row nothing is read
            next_x = tile(x, x_row, x_group, ahead, group, columns, M, SIZE)
            next_d = tile(dy, dy_row, dy_group, ahead, group, columns, M, SIZE)
            if GATE != NONE:
                next_z = tile(z, z_row, z_group, ahead, group, columns, M, SIZE)
        b_dx, b_dz, b_dw = gradients(b_x, b_z, d, w, eps, SIZE, GATE, MEAN)
        inside = (here < M)[:, None] & (columns < SIZE)[None, :]
        out = places(tl.num_programs(1) * SIZE, SIZE, here, group, columns)
        tl.store(dx + out, b_dx.to(dx.dtype.element_ty), mask=inside)
        if GATE != NONE:
            tl.store(dz + out, b_dz.to(dz.dtype.element_ty), mask=inside)
        if parts is not None:
            sums += b_dw
    if parts is not None:
        part = (tl.program_id(0) * tl.num_programs(1) + group).to(tl.int64) * SIZE
        tl.store(parts + part + columns, tl.sum(sums, 0), mask=columns < SIZE)
