"""One token of the delta rules, for decoding."""

from __future__ import annotations

import torch
from torch import Tensor

from ..backend import Backend, resolve_backend
from ..checks import require_shape
from ..gated_linear_attention.arguments import Kind, check_kind

WIDEST = 256
"""The widest keys that the Triton kernel has room for."""


def delta_rule_step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    state: Tensor,
    *,
    decay: Tensor | None = None,
    kind: Kind | None = None,
    scale: float | None = None,
    backend: Backend = "auto",
) -> Tensor:
    """Return o [B, H, V] in v's dtype and advance `state` [B, H, K, V] in place.

    q, k: [B, Hk, K]. v: [B, H, V]. beta: [B, H]. decay: None, [H], [B, H] or [B, H, K], natural logarithm.
    The state is overwritten, so gradients do not flow across steps. Raises ValueError for shapes that do not fit.
    """
    B, H, K = _check_step(q, v, state, k=k)
    require_shape("beta", beta, (B, H))
    kind = check_kind(decay, kind, {"head": (H,), "token": (B, H), "channel": (B, H, K)})
    scale = float(K**-0.5 if scale is None else scale)
    fits = state.dtype == torch.float32 and state.is_contiguous() and K <= WIDEST
    if resolve_backend(backend, q.device, operation="delta_rule_step", has_triton=fits) == "triton":
        from .step_triton import delta_rule_step_triton

        return delta_rule_step_triton(q, k, v, beta, state, decay, kind, scale)

    dtype = state.dtype
    q, k = (x.to(dtype).repeat_interleave(H // q.shape[1], dim=1) for x in (q, k))
    if decay is not None:
        alpha = decay.to(dtype).exp()
        state.mul_(alpha[..., None] if kind == "channel" else alpha[..., None, None])
    recalled = torch.einsum("bhk,bhkv->bhv", k, state)
    written = beta.to(dtype)[..., None] * (v.to(dtype) - recalled)
    state.add_(k[..., None] * written[:, :, None, :])
    o = torch.einsum("bhk,bhkv->bhv", q, state) * scale
    return o.to(v.dtype)


def dplr_step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    state: Tensor,
    *,
    decay: Tensor,
    scale: float | None = None,
    backend: Backend = "auto",
) -> Tensor:
    """Return o [B, H, V] in v's dtype and advance `state` [B, H, K, V] in place.

    q, k, a, b: [B, Hk, K]. v: [B, H, V]. decay: [B, H, K], natural logarithm. The state is overwritten, so gradients do
    not flow across steps. Raises ValueError for shapes that do not fit.
    """
    B, H, K = _check_step(q, v, state, k=k, a=a, b=b)
    require_shape("decay", decay, (B, H, K))
    scale = float(K**-0.5 if scale is None else scale)
    fits = state.dtype == torch.float32 and state.is_contiguous() and K <= WIDEST
    if resolve_backend(backend, q.device, operation="dplr_step", has_triton=fits) == "triton":
        from .dplr_step_triton import dplr_step_triton

        return dplr_step_triton(q, k, v, a, b, state, decay, scale)

    dtype = state.dtype
    q, k, a, b = (x.to(dtype).repeat_interleave(H // q.shape[1], dim=1) for x in (q, k, a, b))
    read = torch.einsum("bhk,bhkv->bhv", a, state)
    state.mul_(decay.to(dtype).exp()[..., None])
    state.add_(b[..., None] * read[:, :, None, :]).add_(k[..., None] * v.to(dtype)[:, :, None, :])
    o = torch.einsum("bhk,bhkv->bhv", q, state) * scale
    return o.to(v.dtype)


def _check_step(q: Tensor, v: Tensor, state: Tensor, **like_q: Tensor) -> tuple[int, int, int]:
    """Return B, H and K."""
    if q.ndim != 3 or v.ndim != 3:
        raise ValueError(f"q is [B, Hk, K] and v is [B, H, V], got q {list(q.shape)} and v {list(v.shape)}")
    B, Hk, K = q.shape
    H, V = v.shape[1:]
    for name, x in like_q.items():
        require_shape(name, x, q.shape)
    if H % Hk:
        raise ValueError(f"v has {H} heads, which is no multiple of the {Hk} heads of q and k")
    require_shape("v", v, (B, H, V))
    require_shape("state", state, (B, H, K, V))
    return B, H, K
