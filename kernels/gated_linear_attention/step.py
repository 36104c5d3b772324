"""One token of gated linear attention, for decoding."""

from __future__ import annotations

import torch
from torch import Tensor

from ..backend import Backend, resolve_backend
from .arguments import Kind, check_kind
from .value_scale import check_value_scale, scaled, with_skip

WIDEST = 256
"""The widest keys that the Triton kernel has room for."""


def gated_linear_attention_step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    state: Tensor,
    *,
    decay: Tensor | None = None,
    kind: Kind | None = None,
    bonus: Tensor | None = None,
    scale: float | None = None,
    normalize: bool = False,
    value_scale: Tensor | None = None,
    skip: Tensor | None = None,
    backend: Backend = "auto",
) -> Tensor:
    """Return o [B, H, V] in v's dtype and advance `state` [B, H, K, V] (V+1 columns when normalising) in place.

    q, k: [B, Hk, K]. v: [B, H, V]. decay: None, [H], [B, H] or [B, H, K], natural logarithm. bonus: [H, K].
    value_scale: [B, H], skip: [H], as in `gated_linear_attention`.
    The state is overwritten, so gradients do not flow across steps. Raises ValueError for shapes that do not fit.
    """
    B, Hk, K = q.shape
    H, V = v.shape[1:]
    if tuple(state.shape) != (B, H, K, V + normalize):
        raise ValueError(f"state has shape {list(state.shape)}: expected {[B, H, K, V + normalize]}")
    if H % Hk:
        raise ValueError(f"v has {H} heads, which is no multiple of the {Hk} heads of q and k")
    kind = check_kind(decay, kind, {"head": (H,), "token": (B, H), "channel": (B, H, K)})

    check_value_scale(v, value_scale, skip)
    unscaled, v = v, scaled(v, value_scale)
    scale = float(K**-0.5) if scale is None else scale
    fits = state.dtype == torch.float32 and state.is_contiguous() and K <= WIDEST
    if resolve_backend(backend, q.device, operation="gated_linear_attention_step", has_triton=fits) == "triton":
        from .step_triton import gated_linear_attention_step_triton

        o = gated_linear_attention_step_triton(q, k, v, state, decay, kind, bonus, scale, normalize)
        return with_skip(o, unscaled, skip)

    dtype = state.dtype
    q_BHK, k_BHK = (x.to(dtype).repeat_interleave(H // Hk, dim=1) for x in (q, k))
    values = v.to(dtype)
    if normalize:
        values = torch.cat([values, values.new_ones(B, H, 1)], dim=-1)
    kv = k_BHK[..., None] * values[:, :, None, :]
    seen = None if bonus is None else state + bonus.to(dtype)[:, :, None] * kv
    if decay is not None:
        alpha = decay.to(dtype).exp()
        state.mul_(alpha[..., None] if kind == "channel" else alpha[..., None, None])
    state.add_(kv)
    o = torch.einsum("bhk,bhkv->bhv", q_BHK, state if seen is None else seen)
    o = o[..., :-1] / o[..., -1:] if normalize else o * scale
    return with_skip(o.to(v.dtype), unscaled, skip)
