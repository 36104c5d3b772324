"""Mamba-1's selective scan, one token after another in fp64: what every faster form is judged by."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .arguments import check_arguments


def selective_scan_reference(
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
) -> tuple[Tensor, Tensor | None]:
    """Arguments, shapes and errors as in `selective_scan`; results are fp64."""
    check_arguments(u, dt, A, B, C, D, z, dt_bias, initial_state)
    u, dt, A, B, C = (x.double() for x in (u, dt, A, B, C))
    if dt_bias is not None:
        dt = dt + dt_bias.double()
    if dt_softplus:
        dt = F.softplus(dt)
    h_BDN = u.new_zeros(u.shape[0], *A.shape) if initial_state is None else initial_state.double()
    outputs = []
    for t in range(u.shape[1]):
        decay_BDN = torch.exp(dt[:, t, :, None] * A)
        h_BDN = decay_BDN * h_BDN + (dt[:, t] * u[:, t])[:, :, None] * B[:, t, None, :]
        outputs.append(torch.einsum("bdn,bn->bd", h_BDN, C[:, t]))
    y = torch.stack(outputs, dim=1)
    if D is not None:
        y = y + D.double() * u
    if z is not None:
        y = y * F.silu(z.double())
    return y, h_BDN if output_final_state else None
