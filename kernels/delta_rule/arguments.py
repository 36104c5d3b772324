"""What the delta rules accept: the checks that their forms share."""

from __future__ import annotations

from torch import Tensor

from ..checks import require_floating, require_shape
from ..gated_linear_attention.arguments import Kind, check_kind
from ..packing import check_cu_seqlens


def check_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    decay: Tensor | None,
    kind: Kind | None,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
) -> Kind:
    """Return the kind of decay; raise ValueError for arguments that do not fit together."""
    _check_common(q, k, v, initial_state, cu_seqlens)
    B, T, _, K = q.shape
    H = v.shape[2]
    require_shape("beta", beta, (B, T, H))
    kind = check_kind(decay, kind, {"head": (H,), "token": (B, T, H), "channel": (B, T, H, K)})
    require_floating(q=q, k=k, v=v, beta=beta, decay=decay, initial_state=initial_state)
    return kind


def check_dplr(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    decay: Tensor,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
) -> None:
    """Raise ValueError for arguments that do not fit together."""
    _check_common(q, k, v, initial_state, cu_seqlens)
    B, T, _, K = q.shape
    require_shape("a", a, q.shape)
    require_shape("b", b, q.shape)
    require_shape("decay", decay, (B, T, v.shape[2], K))
    require_floating(q=q, k=k, v=v, a=a, b=b, decay=decay, initial_state=initial_state)


def _check_common(q: Tensor, k: Tensor, v: Tensor, initial_state: Tensor | None, cu_seqlens: Tensor | None) -> None:
    if q.ndim != 4 or v.ndim != 4:
        raise ValueError(f"q, k are [B, T, Hk, K] and v is [B, T, H, V], got q {list(q.shape)} and v {list(v.shape)}")
    B, T, Hk, K = q.shape
    H, V = v.shape[2:]
    require_shape("k", k, q.shape)
    require_shape("v", v, (B, T, H, V))
    if T < 1:
        raise ValueError("T is 0: a sequence has at least one token")
    if H % Hk:
        raise ValueError(f"v has {H} heads, which is no multiple of the {Hk} heads of q and k")
    sequences = B if cu_seqlens is None else check_cu_seqlens(cu_seqlens, B, T)
    require_shape("initial_state", initial_state, (sequences, H, K, V))
