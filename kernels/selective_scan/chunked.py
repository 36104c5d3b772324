"""The selective scan in plain PyTorch, a chunk of time steps at a time: what a machine without a GPU trains with.

The recurrence needs one fused multiply-add per time step, in place in a buffer that holds a chunk of states; everything
else (discretisation, outputs, gradients) is done for the whole chunk at once. Backwards is the same scan with time
reversed. Only the state before each chunk is kept from the forward pass, the others are computed again.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..checks import compute_dtype

STATES_PER_CHUNK = 1 << 19
"""Elements of one chunk's buffer of states."""


def selective_scan_chunked(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    dt_softplus: bool,
    initial_state: Tensor | None,
    output_final_state: bool,
) -> tuple[Tensor, Tensor | None]:
    """`selective_scan` for arguments already checked."""
    dtype = compute_dtype(u, dt, A, B, C)
    with torch.autocast(u.device.type, enabled=False):
        x, dt, A = u.to(dtype), dt.to(dtype), A.to(dtype)
        if dt_bias is not None:
            dt = dt + dt_bias.to(dtype)
        if dt_softplus:
            dt = F.softplus(dt)
        h = x.new_zeros(x.shape[0], *A.shape) if initial_state is None else initial_state.to(dtype)
        xdt, dt, B, C = (t.transpose(0, 1).contiguous() for t in (x * dt, dt, B.to(dtype), C.to(dtype)))
        y, h = _Scan.apply(xdt, dt, A.mT.contiguous(), B, C, h.mT.contiguous())
        y, h = y.transpose(0, 1), h.mT
        if D is not None:
            y = torch.addcmul(y, D.to(dtype), x)
        if z is not None:
            y = y * F.silu(z.to(dtype))
    return y.to(u.dtype), h if output_final_state else None


class _Scan(torch.autograd.Function):
    """h_t = exp(dt_t A) ∘ h_{t-1} + x_t B_tᵀ and y_t = h_t C_t, for x = dt ∘ u.

    x, dt, y are [T, B, D], A is [N, D], B, C are [T, B, N] and states are [B, N, D]: the long axis D comes last, where
    the processor's vectors are, and time first, so that a chunk is one block of memory.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        chunk = min(x.shape[0], max(1, STATES_PER_CHUNK // h.numel()))
        decay_buffer, states_buffer = h.new_empty(2, chunk, *h.shape)
        y, starts = torch.empty_like(x), []
        for start in range(0, x.shape[0], chunk):
            span = slice(start, start + chunk)
            starts.append(h)
            states = _states(x[span], dt[span], A, B[span], h, decay_buffer, states_buffer)[1]
            torch.matmul(C[span].unsqueeze(-2), states, out=y[span].unsqueeze(-2))
            h = states[-1].clone()
        ctx.save_for_backward(x, dt, A, B, C, torch.stack(starts))
        ctx.chunk = chunk
        return y, h

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        gy, gh = gradients
        x, dt, A, B, C, starts = ctx.saved_tensors
        chunk = ctx.chunk
        decay_buffer, states_buffer, g_buffer = starts.new_empty(3, chunk, *starts.shape[1:])
        gx, gdt, gA, gB, gC = (torch.empty_like(t) for t in (x, dt, A, B, C))
        gA.zero_()
        for n in reversed(range(starts.shape[0])):
            span = slice(n * chunk, (n + 1) * chunk)
            decay, states = _states(x[span], dt[span], A, B[span], starts[n], decay_buffer, states_buffer)
            g = g_buffer[: len(states)]
            torch.mul(gy[span].unsqueeze(-2), C[span].unsqueeze(-1), out=g)
            g[-1] += gh
            for t in range(len(g) - 2, -1, -1):
                g[t].addcmul_(decay[t + 1], g[t + 1])
            gh = decay[0] * g[0]
            # Row times matrix: the same product as matrix times column takes seven times as long in the CPU's library.
            torch.matmul(gy[span].unsqueeze(-2), states.mT, out=gC[span].unsqueeze(-2))
            torch.matmul(x[span].unsqueeze(-2), g.mT, out=gB[span].unsqueeze(-2))
            torch.matmul(B[span].unsqueeze(-2), g, out=gx[span].unsqueeze(-2))
            # From here on g holds the gradient of dt ∘ A.
            g.mul_(decay)
            g[0] *= starts[n]
            g[1:] *= states[:-1]
            torch.sum(torch.mul(g, A, out=decay), dim=-2, out=gdt[span])
            gA += g.mul_(dt[span].unsqueeze(-2)).sum((0, 1))
        return gx, gdt, gA, gB, gC, gh


def _states(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, h: Tensor, decay_buffer: Tensor, states_buffer: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the decay of each step of a chunk and the state after it, both [L, B, N, D], in the buffers."""
    decay, states = decay_buffer[: len(x)], states_buffer[: len(x)]
    torch.mul(dt.unsqueeze(-2), A, out=decay).exp_()
    torch.mul(x.unsqueeze(-2), B.unsqueeze(-1), out=states)
    for t in range(len(states)):
        states[t].addcmul_(decay[t], h)
        h = states[t]
    return decay, states
