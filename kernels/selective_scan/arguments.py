"""What the selective scan accepts: the checks that every form of it shares."""

from __future__ import annotations

from torch import Tensor

from ..checks import require_floating, require_shape


def check_arguments(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    state: Tensor | None,
) -> None:
    """Raise ValueError for shapes, dtypes or devices that do not fit; u is [..., D] with B, C [..., N]."""
    if A.ndim != 2:
        raise ValueError(f"A is [D, N], got {list(A.shape)}")
    if u.ndim not in (2, 3) or 0 in u.shape:
        raise ValueError(f"u is [B, T, D] ([B, D] for one step) and not empty, got {list(u.shape)}")
    channels, N = A.shape
    leading = u.shape[:-1]
    require_shape("u", u, (*leading, channels))
    require_shape("dt", dt, u.shape)
    require_shape("B", B, (*leading, N))
    require_shape("C", C, (*leading, N))
    require_shape("D", D, (channels,))
    require_shape("z", z, u.shape)
    require_shape("dt_bias", dt_bias, (channels,))
    require_shape("state", state, (u.shape[0], channels, N))
    require_floating(u=u, dt=dt, A=A, B=B, C=C, D=D, z=z, dt_bias=dt_bias, state=state)
