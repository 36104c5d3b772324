"""One token of the selective scan in Triton: the state is read and written once, which is all the time it takes.

h' = exp(dt A) ∘ h + dt u Bᵀ          y = (h' C + D ∘ u) ∘ silu(z)
"""

# Triton's decorator hides its kernels' types.
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..interpreter import correct_bfloat16
from ..operator import Step
from .scan_tiles import LOG2E, per_channel, step_size

correct_bfloat16()

PER_PROGRAM = 1024  # elements of the state, eight for each of 128 threads


@triton.jit
def step_kernel(
    u, dt, A, B, C, state, D, z, bias, y, u_row, dt_row, B_row, C_row, z_row, channels,
    N: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, SOFTPLUS: tl.constexpr,
):  # fmt: skip
    """Grid (blocks of D, B). state [B, D, N] in place, A [D, N], y [B, D]: contiguous; the rest by the row's stride."""
    columns = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < channels
    batch = tl.program_id(1).to(tl.int64)
    n = tl.arange(0, WIDTH)
    known = inside[:, None] & (n < N)[None, :]
    tile = columns[:, None] * N + n[None, :]
    h = tl.load(state + batch * channels * N + tile, mask=known, other=0.0)
    rate = tl.load(A + tile, mask=known, other=0.0).to(tl.float32) * LOG2E
    b_B = tl.load(B + batch * B_row + n, mask=n < N, other=0.0).to(tl.float32)
    b_C = tl.load(C + batch * C_row + n, mask=n < N, other=0.0).to(tl.float32)
    b_u = tl.load(u + batch * u_row + columns, mask=inside, other=0.0).to(tl.float32)
    raw = tl.load(dt + batch * dt_row + columns, mask=inside, other=0.0).to(tl.float32)
    step = step_size(raw + per_channel(bias, columns, inside), SOFTPLUS)
    h = tl.exp2(step[:, None] * rate) * h + (step * b_u)[:, None] * b_B[None, :]
    tl.store(state + batch * channels * N + tile, h, mask=known)
    out = tl.sum(h * b_C[None, :], 1) + per_channel(D, columns, inside) * b_u
    if z is not None:
        gate = tl.load(z + batch * z_row + columns, mask=inside, other=0.0).to(tl.float32)
        out *= gate * tl.sigmoid(gate)
    tl.store(y + batch * channels + columns, out.to(y.dtype.element_ty), mask=inside)


def _run(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor, D: Tensor | None, z: Tensor | None,
    dt_bias: Tensor | None, dt_softplus: bool,
) -> Tensor:  # fmt: skip
    batch, channels, N = state.shape
    u, dt, B, C = (x if x.stride(1) == 1 else x.contiguous() for x in (u, dt, B, C))
    z = z if z is None or z.stride(1) == 1 else z.contiguous()
    y = torch.empty((batch, channels), dtype=u.dtype, device=u.device)
    width = 1 << (N - 1).bit_length()
    block = min(max(1, PER_PROGRAM // width), 1 << (channels - 1).bit_length())
    step_kernel[(-(-channels // block), batch)](
        u, dt, A.contiguous(), B, C, state, None if D is None else D.contiguous(), z,
        None if dt_bias is None else dt_bias.contiguous(), y,
        u.stride(0), dt.stride(0), B.stride(0), C.stride(0), 0 if z is None else z.stride(0), channels,
        N=N, WIDTH=width, BLOCK=block, SOFTPLUS=dt_softplus,
    )  # fmt: skip
    return y


selective_scan_step_triton = Step(
    "selective_scan_step",
    _run,
    fake=lambda u, *_: torch.empty(u.shape, dtype=u.dtype, device=u.device),
    flops=lambda u, dt, A, B, C, state, *_: 4 * state.numel(),
)
"""`selective_scan_step` for arguments already checked, the state fp32 and contiguous."""
