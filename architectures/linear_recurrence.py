"""One way to run a gated linear recurrence, whether a layer trains, reads a prompt or takes one token."""

import torch
from torch import Tensor

from ..kernels import gated_linear_attention, gated_linear_attention_step
from .layer import State

POSITION_BYTES = torch.int64.itemsize


def recur(
    q_BTHK: Tensor,
    k_BTHK: Tensor,
    v_BTHV: Tensor,
    *,
    decay: Tensor | None,
    state: State | None,
    bonus: Tensor | None = None,
    scale: float | None = None,
    normalize: bool = False,
    value_scale_BTH: Tensor | None = None,
    skip_H: Tensor | None = None,
) -> Tensor:
    """o [B,T,H,V] of gated_linear_attention; ``state["recurrent"]`` is read and replaced where there is one.

    ``decay`` is [H], [B,T,H] or [B,T,H,K], the natural logarithm, at most 0.
    """
    if state is None:
        return gated_linear_attention(
            q_BTHK,
            k_BTHK,
            v_BTHV,
            decay=decay,
            bonus=bonus,
            scale=scale,
            normalize=normalize,
            value_scale=value_scale_BTH,
            skip=skip_H,
        )[0]
    if q_BTHK.shape[1] == 1:
        now = decay[:, 0] if decay is not None and decay.ndim > 1 else decay
        return gated_linear_attention_step(
            q_BTHK[:, 0],
            k_BTHK[:, 0],
            v_BTHV[:, 0],
            state["recurrent"],
            decay=now,
            bonus=bonus,
            scale=scale,
            normalize=normalize,
            value_scale=None if value_scale_BTH is None else value_scale_BTH[:, 0],
            skip=skip_H,
        )[:, None]
    o_BTHV, state["recurrent"] = gated_linear_attention(  # pyright: ignore[reportArgumentType]
        q_BTHK,
        k_BTHK,
        v_BTHV,
        decay=decay,
        bonus=bonus,
        scale=scale,
        normalize=normalize,
        value_scale=value_scale_BTH,
        skip=skip_H,
        initial_state=state["recurrent"],
        output_final_state=True,
    )
    return o_BTHV


def zero_state(
    batch_size: int, n_heads: int, key_dim: int, value_dim: int, device: torch.device | str | None
) -> Tensor:
    """[B,H,K,V] zeros in fp32: recurrences are kept in fp32 whatever the model's dtype."""
    return torch.zeros(batch_size, n_heads, key_dim, value_dim, device=device, dtype=torch.float32)


def zero_state_bytes(n_heads: int, key_dim: int, value_dim: int) -> int:
    """Bytes of ``zero_state``, per sequence."""
    return n_heads * key_dim * value_dim * torch.float32.itemsize


def recurrence_flops(n_heads: int, key_dim: int, value_dim: int) -> int:
    """Per token: 2KV into the state and 2KV out of it, for every head."""
    return 4 * n_heads * key_dim * value_dim
