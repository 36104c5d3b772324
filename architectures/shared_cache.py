"""Keys and values that several layers of attention read: YOCO's one cache for its upper half (Sun et al. 2024, section
2.2), Hymba's for neighbouring layers (Dong et al. 2024, section 2.2; Brandon et al. 2024).

The layer that makes them keeps them in its state and shares all that it holds; its readers have queries alone, and no
state. Keys are shared as they are attended to: normed and rotated, where their layer does so.
"""

import torch
from torch import Tensor, nn

from .context import Context
from .layer import Layer, State
from .parts import RMSNorm
from .rotary import rotate, rotation_tables
from .softmax_attention import attend

SHARED = ("keys", "values", "positions")
VISIBLE = "visible"
"""Shared too where the cache has slots that a row does not see (growing_cache.py)."""


def share_cache(
    context: Context, k_BSGK: Tensor, v_BSGK: Tensor, position_BT: Tensor, visible_BS: Tensor | None
) -> None:
    """Lets later layers read keys and values [B,S,G,K]; the last T belong to the tokens at ``position_BT``."""
    for name, value in zip(SHARED, (k_BSGK, v_BSGK, position_BT), strict=True):
        context.share(name, value)
    if visible_BS is not None:
        context.share(VISIBLE, visible_BS)


class ReadingAttention(Layer):
    """Attention to the keys and values of the nearest earlier layer that shares them."""

    def __init__(
        self,
        d_model: int,
        *,
        n_heads: int,
        head_dim: int,
        window: int | None,
        scale: float | None,
        n_rotated: int,
        rope_base: float,
        normed_channels: int,
        norm_eps: float,
        output_gate: bool,
        bias: bool,
        out_bias: bool,
    ) -> None:
        super().__init__()
        self.H, self.K, self.window, self.scale = n_heads, head_dim, window, scale
        self.n_rotated, self.rope_base = n_rotated, rope_base
        self.q_proj = nn.Linear(d_model, n_heads * head_dim, bias=bias)
        self.gate_proj = nn.Linear(d_model, n_heads * head_dim, bias=bias) if output_gate else None
        self.q_norm = RMSNorm(normed_channels, eps=norm_eps) if normed_channels else None
        self.out_proj = nn.Linear(n_heads * head_dim, d_model, bias=out_bias)

    def init_state(
        self, batch_size: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> State:
        return {}

    def forward(
        self, x_BTD: Tensor, state: State | None = None, context: Context | None = None
    ) -> tuple[Tensor, State | None]:
        assert context is not None
        k_BSGK, v_BSGK, position_BT = (context.read(name) for name in SHARED)
        q_BTHK = self.q_proj(x_BTD).unflatten(-1, (self.H, self.K))
        if self.q_norm is not None:
            width = self.q_norm.weight.shape[0]
            q_BTHK = self.q_norm(q_BTHK.flatten(2).unflatten(-1, (-1, width))).view_as(q_BTHK)
        if self.n_rotated:
            q_BTHK = rotate(q_BTHK, rotation_tables(position_BT, self.n_rotated, self.rope_base))
        visible_BS = context.shared.get(VISIBLE)
        o_BTE = attend(q_BTHK, k_BSGK, v_BSGK, self.window, self.scale, visible_BS).flatten(2)
        if self.gate_proj is not None:
            o_BTE = o_BTE * self.gate_proj(x_BTD).sigmoid()
        return self.out_proj(o_BTE), state
