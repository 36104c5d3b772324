"""Gated linear attention, one token after another in fp64: what every faster form is judged by."""

from __future__ import annotations

import torch
from torch import Tensor

from ..packing import spans
from .arguments import Kind, check_arguments
from .value_scale import check_value_scale


def gated_linear_attention_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    decay: Tensor | None = None,
    kind: Kind | None = None,
    bonus: Tensor | None = None,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    normalize: bool = False,
    value_scale: Tensor | None = None,
    skip: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Arguments, shapes and errors as in `gated_linear_attention`; results are fp64."""
    kind = check_arguments(q, k, v, decay, kind, bonus, initial_state, normalize, cu_seqlens)
    B, T, Hk, K = q.shape
    H = v.shape[2]
    factor = float(K**-0.5 if scale is None else scale)
    q, k = (x.double().repeat_interleave(H // Hk, dim=2) for x in (q, k))
    check_value_scale(v, value_scale, skip)
    v = unscaled = v.double()
    v = v if value_scale is None else v * value_scale.double()[..., None]
    if normalize:
        v = torch.cat([v, torch.ones_like(v[..., :1])], dim=-1)

    pieces, finals = [], []
    for n, (row, start, end) in enumerate(spans(cu_seqlens, B, T)):
        S = v.new_zeros(H, K, v.shape[-1]) if initial_state is None else initial_state[n].double()
        outputs = []
        for t in range(start, end):
            kv = k[row, t, :, :, None] * v[row, t, :, None, :]
            before = S
            S = _alpha(decay, kind, row, t) * S + kv
            seen = S if bonus is None else before + bonus.double()[:, :, None] * kv
            outputs.append(torch.einsum("hk,hkv->hv", q[row, t], seen))
        pieces.extend(outputs)
        finals.append(S)
    o = torch.stack(pieces).view(B, T, H, -1)
    o = o[..., :-1] / o[..., -1:] if normalize else factor * o
    o = o if skip is None else o + skip.double()[:, None] * unscaled
    return o, torch.stack(finals) if output_final_state else None


def _alpha(decay: Tensor | None, kind: Kind, row: int, t: int) -> Tensor | float:
    """exp(decay) of one token, to be multiplied with a state [H, K, V]."""
    if decay is None or kind == "none":
        return 1.0
    of_token = decay if kind == "head" else decay[row, t]
    alpha = of_token.double().exp()
    return alpha[:, :, None] if kind == "channel" else alpha[:, None, None]
