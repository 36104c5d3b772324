"""Mamba-1's selective scan (Gu & Dao 2023, eq. 2 with the discretisation of the published code).

    h_t = exp(dt_t A) ∘ h_{t-1} + dt_t u_t B_tᵀ           h is D by N
    y_t = (h_t C_t + D ∘ u_t) ∘ silu(z_t)

The decay differs per channel and state dimension, so there is no matrix product to share between channels, as there is
in gated linear attention. Legend: B batch, T time, D channels, N state width.
"""

from __future__ import annotations

from torch import Tensor

from ..backend import Backend, resolve_backend
from .arguments import check_arguments
from .chunked import selective_scan_chunked
from .reference import selective_scan_reference
from .step import selective_scan_step

__all__ = ["selective_scan", "selective_scan_chunked", "selective_scan_reference", "selective_scan_step"]


def selective_scan(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    backend: Backend = "auto",
) -> tuple[Tensor, Tensor | None]:
    """Run the scan over a whole sequence, differentiably in every tensor argument.

    u, dt, z: [B, T, D]. A: [D, N], negative. B, C: [B, T, N]. D, dt_bias: [D].
    initial_state: [B, D, N], zeros when None.
    dt_bias is added to dt, then softplus is taken where `dt_softplus`; z gates the output with silu.
    What the Triton kernels do not hold (fp64, more than 32 states a channel) is computed by the PyTorch form.

    Returns y [B, T, D] in u's dtype and, where `output_final_state`, the final state (fp32, fp64 for fp64 inputs),
    else None. Raises ValueError, naming the argument and what would be right, for what does not fit.
    """
    check_arguments(u, dt, A, B, C, D, z, dt_bias, initial_state)
    arguments = (u, dt, A, B, C, D, z, dt_bias, dt_softplus, initial_state, output_final_state)
    if resolve_backend(backend, u.device, operation="selective_scan", has_triton=True) == "triton":
        from .scan_triton import selective_scan_triton, supported

        if supported(A.shape[1], u, dt, A, B, C, D, z, dt_bias, initial_state):
            return selective_scan_triton(*arguments)
    return selective_scan_chunked(*arguments)
