"""Mamba-2's step and skip around the recurrence, as operations of their own: what the fused kernels are to give.

S_t = exp(decay_t) S_{t-1} + k_t (value_scale_t v_t)^T and o_t = scale q_t^T S_t + skip v_t (Dao & Gu 2024, section 7:
value_scale = dt, skip = D).
"""

from __future__ import annotations

from torch import Tensor

from ..checks import require_floating, require_shape


def check_value_scale(v: Tensor, value_scale: Tensor | None, skip: Tensor | None) -> None:
    """Raise ValueError unless value_scale is as v [..., H, V] without V, and skip [H]."""
    if value_scale is not None:
        require_shape("value_scale", value_scale, tuple(v.shape[:-1]))
    if skip is not None:
        require_shape("skip", skip, (v.shape[-2],))
    require_floating(v=v, value_scale=value_scale, skip=skip)


def scaled(v: Tensor, value_scale: Tensor | None) -> Tensor:
    """value_scale v, rounded once to v's dtype."""
    return v if value_scale is None else (v * value_scale[..., None]).to(v.dtype)


def with_skip(o: Tensor, v: Tensor, skip: Tensor | None) -> Tensor:
    """o + skip v, rounded once to o's dtype."""
    return o if skip is None else (o + v * skip[:, None]).to(o.dtype)
