"""What gated linear attention accepts: the checks that every form of it shares."""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor

from ..checks import require_floating, require_shape
from ..packing import check_cu_seqlens

Kind = Literal["none", "head", "token", "channel"]


def check_arguments(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    decay: Tensor | None,
    kind: Kind | None,
    bonus: Tensor | None,
    initial_state: Tensor | None,
    normalize: bool,
    cu_seqlens: Tensor | None,
) -> Kind:
    """Return the kind of decay; raise ValueError for arguments that do not fit together."""
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
    kind = check_kind(decay, kind, {"head": (H,), "token": (B, T, H), "channel": (B, T, H, K)})
    if bonus is not None:
        require_shape("bonus", bonus, (H, K))
    sequences = B if cu_seqlens is None else check_cu_seqlens(cu_seqlens, B, T)
    if initial_state is not None:
        require_shape("initial_state", initial_state, (sequences, H, K, V + normalize))
    require_floating(q=q, k=k, v=v, decay=decay, bonus=bonus, initial_state=initial_state)
    return kind


def check_kind(decay: Tensor | None, kind: Kind | None, shapes: dict[Kind, tuple[int, ...]]) -> Kind:
    """Return the kind, inferred from decay's shape when None; `shapes` holds the shape each kind wants."""
    if kind is None:
        if decay is None:
            return "none"
        for name, shape in shapes.items():
            if tuple(decay.shape) == shape:
                return name
        wanted = ", ".join(f"{list(shape)} ({name})" for name, shape in shapes.items())
        raise ValueError(f"decay has shape {list(decay.shape)}: expected one of {wanted}")
    if kind not in get_args(Kind):
        raise ValueError(f"kind {kind!r} is not one of {', '.join(get_args(Kind))}")
    if (kind == "none") != (decay is None):
        raise ValueError(f"kind {kind!r} {'takes no decay' if kind == 'none' else 'needs a decay'}")
    if decay is not None:
        require_shape("decay", decay, shapes[kind])
    return kind
