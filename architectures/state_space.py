"""One way to run a selective scan, whether a layer trains, reads a prompt or takes one token."""

from torch import Tensor

from ..kernels import selective_scan, selective_scan_step
from .layer import State


def scan(
    u_BTE: Tensor,
    dt_BTE: Tensor,
    A_EN: Tensor,
    B_BTN: Tensor,
    C_BTN: Tensor,
    *,
    state: State | None,
    D: Tensor | None = None,
    z_BTE: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
) -> Tensor:
    """y [B,T,E] of selective_scan; ``state["recurrent"]`` [B,E,N] is read and replaced where there is one."""
    if state is None:
        return selective_scan(
            u_BTE, dt_BTE, A_EN, B_BTN, C_BTN, D=D, z=z_BTE, dt_bias=dt_bias, dt_softplus=dt_softplus
        )[0]
    if u_BTE.shape[1] == 1:
        u, dt, B, C = (m[:, 0] for m in (u_BTE, dt_BTE, B_BTN, C_BTN))
        z = None if z_BTE is None else z_BTE[:, 0]
        return selective_scan_step(
            u, dt, A_EN, B, C, state["recurrent"], D=D, z=z, dt_bias=dt_bias, dt_softplus=dt_softplus
        )[:, None]
    y_BTE, state["recurrent"] = selective_scan(  # pyright: ignore[reportArgumentType]
        u_BTE,
        dt_BTE,
        A_EN,
        B_BTN,
        C_BTN,
        D=D,
        z=z_BTE,
        dt_bias=dt_bias,
        dt_softplus=dt_softplus,
        initial_state=state["recurrent"],
        output_final_state=True,
    )
    return y_BTE
