"""What the convolutions accept: the checks that every form shares."""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor

from ..checks import require_floating, require_shape

Activation = Literal["silu"]


def check_short(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: Activation | None,
    state: Tensor | None,
    sequences: int,
) -> None:
    """Raise ValueError for shapes, dtypes, devices or an activation that do not fit; x is [..., D]."""
    if weight.ndim != 2 or weight.shape[1] < 1:
        raise ValueError(f"weight is [D, W] with W ≥ 1, got {list(weight.shape)}")
    D, W = weight.shape
    require_shape("x", x, (*x.shape[:-1], D))
    require_shape("bias", bias, (D,))
    require_shape("state", state, (sequences, W - 1, D))
    require_floating(x=x, weight=weight, bias=bias, state=state)
    if activation is not None and activation not in get_args(Activation):
        raise ValueError(f"activation {activation!r} is not one of None, {', '.join(get_args(Activation))}")


def check_long(x: Tensor, filters: Tensor, skip: Tensor | None) -> None:
    """Raise ValueError for shapes, dtypes or devices that do not fit."""
    if x.ndim != 3 or 0 in x.shape:
        raise ValueError(f"x is [B, T, D] and not empty, got {list(x.shape)}")
    if filters.ndim != 2 or filters.shape[0] != x.shape[2] or filters.shape[1] < 1:
        raise ValueError(f"filters has shape {list(filters.shape)}: expected [{x.shape[2]}, L] with L ≥ 1")
    require_shape("skip", skip, (x.shape[2],))
    require_floating(x=x, filters=filters, skip=skip)
