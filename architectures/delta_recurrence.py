"""One way to run a delta rule, whether a layer trains, reads a prompt or takes one token."""

from torch import Tensor

from ..kernels import delta_rule, delta_rule_step, dplr, dplr_step
from .layer import State


def correct(
    q_BTHK: Tensor, k_BTHK: Tensor, v_BTHV: Tensor, beta_BTH: Tensor, *, decay: Tensor | None, state: State | None
) -> Tensor:
    """o [B,T,H,V] of delta_rule; ``state["recurrent"]`` [B,H,K,V] is read and replaced where there is one.

    ``decay`` is None, [B,T,H] or [B,T,H,K], the natural logarithm, at most 0.
    """
    if state is None:
        return delta_rule(q_BTHK, k_BTHK, v_BTHV, beta_BTH, decay=decay)[0]
    if q_BTHK.shape[1] == 1:
        q, k, v, beta = (m[:, 0] for m in (q_BTHK, k_BTHK, v_BTHV, beta_BTH))
        now = None if decay is None else decay[:, 0]
        return delta_rule_step(q, k, v, beta, state["recurrent"], decay=now)[:, None]
    o_BTHV, state["recurrent"] = delta_rule(  # pyright: ignore[reportArgumentType]
        q_BTHK, k_BTHK, v_BTHV, beta_BTH, decay=decay, initial_state=state["recurrent"], output_final_state=True
    )
    return o_BTHV


def correct_general(
    q_BTHK: Tensor,
    k_BTHK: Tensor,
    v_BTHV: Tensor,
    a_BTHK: Tensor,
    b_BTHK: Tensor,
    *,
    decay: Tensor,
    state: State | None,
) -> Tensor:
    """The same for dplr, with scale 1 and a decay [B,T,H,K]."""
    if state is None:
        return dplr(q_BTHK, k_BTHK, v_BTHV, a_BTHK, b_BTHK, decay=decay, scale=1.0)[0]
    if q_BTHK.shape[1] == 1:
        q, k, v, a, b = (m[:, 0] for m in (q_BTHK, k_BTHK, v_BTHV, a_BTHK, b_BTHK))
        return dplr_step(q, k, v, a, b, state["recurrent"], decay=decay[:, 0], scale=1.0)[:, None]
    o_BTHV, state["recurrent"] = dplr(  # pyright: ignore[reportArgumentType]
        q_BTHK,
        k_BTHK,
        v_BTHV,
        a_BTHK,
        b_BTHK,
        decay=decay,
        scale=1.0,
        initial_state=state["recurrent"],
        output_final_state=True,
    )
    return o_BTHV


def correction_flops(n_heads: int, key_dim: int, value_dim: int) -> int:
    """Per token: 2KV to read what the key recalls, 2KV to write, 2KV out, for every head."""
    return 6 * n_heads * key_dim * value_dim


def general_correction_flops(n_heads: int, key_dim: int, value_dim: int) -> int:
    """Per token: 2KV to read, 2KV and 2KV for the two writes, 2KV out, for every head."""
    return 8 * n_heads * key_dim * value_dim
