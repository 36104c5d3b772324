"""Linear attention's normaliser inside the scans: o_i = (S^T q_i) / (z . q_i), z the recurrence of k alone.

z is one more column of the state, with 1 for its values: a vector that a scan carries beside its block of the state.
With den_i = z . q_i, the gradients are those of the numerator for do_i / den_i, and those of that one column for
-(do_i . o_i) / den_i. In terms of `scan`: the *factor* is 1 / den_i, the *extra* is -(do_i . o_i), and where do meets
v, do_i . v_j becomes (do_i . v_j + extra_i) factor_i. Neither is rounded to 16 bits.
"""

# Triton's decorator hides its kernels' types.
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import ceil_div, padded, strides
from .tiles import dot, first_row

ROWS = 32  # of o that a program of `negative_products` takes


@triton.jit
def of_tokens(x, first, length, H, takes_part, TIME: tl.constexpr):
    """A chunk's entries of x [length, H], one head's; 0 past the end, or if the program takes no part."""
    row = first + tl.arange(0, TIME)
    return tl.load(x + row.to(tl.int64) * H, mask=(row < length) & takes_part, other=0.0)


@triton.jit
def columns_of(x, dtype: tl.constexpr):
    """x [N], float32, as a matrix [N, 16] of `dtype` whose columns add up to it but for 16 bits."""
    high = x.to(dtype)
    low = (x - high.to(tl.float32)).to(dtype)
    column = tl.arange(0, 16)[None, :]
    return tl.where(column == 0, high[:, None], tl.where(column == 1, low[:, None], 0.0)).to(dtype)


@triton.jit
def product(rows, x):
    """rows @ x in float32, rows [M, N] a tile and x [N] float32.

    On the matrix units, as a tile that is also wanted in registers is no longer loaded ahead; float16 has no room for
    sums of many keys.
    """
    if rows.dtype == tl.bfloat16:
        result = tl.sum(dot(rows, columns_of(x, rows.dtype)), 1)
    else:
        result = tl.sum(rows.to(tl.float32) * x[None, :], 1)
    return result


@triton.jit
def inverse_denominators(weights, through, first, length, TIME: tl.constexpr):
    """1 / den of a chunk's tokens, from their weights [j, i] and what z adds; 1 past the end."""
    den = tl.sum(weights, 0) + through
    return 1.0 / tl.where(first + tl.arange(0, TIME) < length, den, 1.0)


@triton.jit(do_not_specialize=["T", "count"])
def negative_products(
    do, o, out, T, H, count, do_strides, o_strides,
    V: tl.constexpr, FULL_V: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """out [B, T, H] = -(do . o), float32. Grid: blocks of ROWS of its `count` entries."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    batch, token, head = row // (T * H), row // H % T, row % H
    column = tl.arange(0, FULL_V)
    inside = (row < count)[:, None] & (column < V)[None, :]
    b_do = tl.load(do + first_row(do_strides, batch, token, head)[:, None] + column[None, :], mask=inside, other=0.0)
    b_o = tl.load(o + first_row(o_strides, batch, token, head)[:, None] + column[None, :], mask=inside, other=0.0)
    tl.store(out + row, -tl.sum(b_do.to(tl.float32) * b_o.to(tl.float32), 1), mask=row < count)


def extra_of(do: Tensor, o: Tensor) -> Tensor:
    """-(do . o) of every token and head: [B, T, H] float32."""
    B, T, H, V = o.shape
    extra = o.new_empty((B, T, H), dtype=torch.float32)
    negative_products[(ceil_div(extra.numel(), ROWS),)](
        do, o, extra, T, H, extra.numel(), strides(do), strides(o), V=V, FULL_V=padded(V), ROWS=ROWS, num_warps=4
    )
    return extra


def parted(state: Tensor | None, normalize: bool) -> tuple[Tensor | None, Tensor | None]:
    """A state [N, H, K, V + 1] as S [N, H, K, V] and z [N, H, K]; without the normaliser as it is, and None."""
    if state is None or not normalize:
        return state, None
    return state[..., :-1].contiguous(), state[..., -1].contiguous()


def joined(state: Tensor | None, sums: Tensor | None) -> Tensor | None:
    """What `parted` parted."""
    return state if state is None or sums is None else torch.cat([state, sums[..., None]], -1)
