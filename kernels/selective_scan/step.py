"""One token of the selective scan, for decoding."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..backend import Backend, resolve_backend
from .arguments import check_arguments


def selective_scan_step(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    state: Tensor,
    *,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    backend: Backend = "auto",
) -> Tensor:
    """Return y [B, D] in u's dtype and advance `state` [B, D, N] in place.

    u, dt, z: [B, D]. A: [D, N]. B, C: [B, N]. D, dt_bias: [D]. The state is overwritten, so gradients do not flow
    across steps. What the Triton kernel does not hold (a state that is not fp32, more than 32 states a channel) is
    computed by the PyTorch form. Raises ValueError for shapes that do not fit.
    """
    check_arguments(u, dt, A, B, C, D, z, dt_bias, state)
    if resolve_backend(backend, u.device, operation="selective_scan_step", has_triton=True) == "triton":
        from .scan_triton import supported

        if (
            state.dtype == torch.float32
            and state.is_contiguous()
            and supported(A.shape[1], u, dt, A, B, C, D, z, dt_bias)
        ):
            from .step_triton import selective_scan_step_triton

            return selective_scan_step_triton(u, dt, A, B, C, state, D, z, dt_bias, dt_softplus)
    dtype = state.dtype
    dt = dt.to(dtype)
    if dt_bias is not None:
        dt = dt + dt_bias.to(dtype)
    if dt_softplus:
        dt = F.softplus(dt)
    u_BD = u.to(dtype)
    state.mul_(torch.exp(dt[..., None] * A.to(dtype))).add_((dt * u_BD)[..., None] * B.to(dtype)[:, None, :])
    y = torch.einsum("bdn,bn->bd", state, C.to(dtype))
    if D is not None:
        y = y + D.to(dtype) * u_BD
    if z is not None:
        y = y * F.silu(z.to(dtype))
    return y.to(u.dtype)
