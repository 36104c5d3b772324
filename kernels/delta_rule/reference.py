"""The delta rules, one token after another in fp64: what every faster form is judged by."""

from __future__ import annotations

import torch
from torch import Tensor

from ..gated_linear_attention.arguments import Kind
from ..packing import spans
from .arguments import check_delta_rule, check_dplr


def delta_rule_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    *,
    decay: Tensor | None = None,
    kind: Kind | None = None,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Arguments, shapes and errors as in `delta_rule`; results are fp64."""
    kind = check_delta_rule(q, k, v, beta, decay, kind, initial_state, cu_seqlens)
    B, T, Hk, K = q.shape
    H, V = v.shape[2:]
    q, k = (x.double().repeat_interleave(H // Hk, dim=2) for x in (q, k))
    v, beta = v.double(), beta.double()
    outputs, finals = [], []
    for n, (row, start, end) in enumerate(spans(cu_seqlens, B, T)):
        S = v.new_zeros(H, K, V) if initial_state is None else initial_state[n].double()
        for t in range(start, end):
            S = _alpha(decay, kind, row, t) * S
            recalled = torch.einsum("hk,hkv->hv", k[row, t], S)
            written = beta[row, t, :, None] * (v[row, t] - recalled)
            S = S + k[row, t, :, :, None] * written[:, None, :]
            outputs.append(torch.einsum("hk,hkv->hv", q[row, t], S))
        finals.append(S)
    o = torch.stack(outputs).view(B, T, H, V) * float(K**-0.5 if scale is None else scale)
    return o, torch.stack(finals) if output_final_state else None


def dplr_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    *,
    decay: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Arguments, shapes and errors as in `dplr`; results are fp64."""
    check_dplr(q, k, v, a, b, decay, initial_state, cu_seqlens)
    B, T, Hk, K = q.shape
    H, V = v.shape[2:]
    q, k, a, b = (x.double().repeat_interleave(H // Hk, dim=2) for x in (q, k, a, b))
    v = v.double()
    outputs, finals = [], []
    for n, (row, start, end) in enumerate(spans(cu_seqlens, B, T)):
        S = v.new_zeros(H, K, V) if initial_state is None else initial_state[n].double()
        for t in range(start, end):
            read = torch.einsum("hk,hkv->hv", a[row, t], S)
            S = (
                _alpha(decay, "channel", row, t) * S
                + b[row, t, :, :, None] * read[:, None, :]
                + k[row, t, :, :, None] * v[row, t, :, None, :]
            )
            outputs.append(torch.einsum("hk,hkv->hv", q[row, t], S))
        finals.append(S)
    o = torch.stack(outputs).view(B, T, H, V) * float(K**-0.5 if scale is None else scale)
    return o, torch.stack(finals) if output_final_state else None


def _alpha(decay: Tensor | None, kind: Kind, row: int, t: int) -> Tensor | float:
    """exp(decay) of one token, to be multiplied with a state [H, K, V]."""
    if decay is None:
        return 1.0
    alpha = (decay if kind == "head" else decay[row, t]).double().exp()
    return alpha[:, :, None] if kind == "channel" else alpha[:, None, None]
