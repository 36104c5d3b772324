"""Hymba's parallel heads (Dong et al. 2024, section 2.1): attention and Mamba between one projection in and one out.

    q, k, v, x, z = W_in u;   out = W_out (norm_a(softmax(q kᵀ / sqrt(K)) v) + norm_m(mamba(x, z))) / 2

The values' heads are so wide that both have Mamba's inner width. Keys and values may be another layer's (section 2.2).
``attn|mamba`` in a pattern is the same idea with whole layers side by side. Hymba's meta tokens are not here.

State: Mamba's, and keys, values and position as ``attn`` keeps them.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ..context import Context
from ..growing_cache import remember
from ..heads import require_divides, split_heads
from ..layer import Layer, LayerConfig, State, register
from ..linear_recurrence import POSITION_BYTES
from ..parts import RMSNorm
from ..rotary import positions, rotate, rotation_tables
from ..shared_cache import SHARED, VISIBLE, share_cache
from ..softmax_attention import attend, mean_keys_seen
from .mamba import Mamba, MambaConfig


@register
@dataclass(frozen=True, kw_only=True)
class HymbaConfig(LayerConfig):
    """Attention heads and Mamba heads in parallel."""

    name = "hymba"
    role = "mixer"

    n_heads: int | None = None
    """Query heads; left out: so that they are near 64 wide."""
    n_kv_heads: int | None = None
    """Heads of keys and values, a divisor of the query heads; left out: as many."""
    window: int | None = None
    """Tokens in the attention's reach, the token itself included; left out: all."""
    keys_values: Literal["own", "share", "read"] = "own"
    """As in ``attn``: own; share: later layers may read them too; read: the nearest earlier sharer's."""
    rope: bool = True
    """Rotary positions (else none)."""
    rope_base: float = 10_000.0
    """Longest wavelength of the rotation is 2π times this, in tokens."""
    d_state: int = 16
    """N: Mamba's state per inner channel."""
    d_conv: int = 4
    """Tokens that Mamba's convolution sees."""
    expand: float = 2.0
    """The inner width of both over d_model."""
    dt_rank: int | None = None
    """Rank of the step's projection; left out: d_model / 16, rounded up."""
    norm_eps: float = 1e-6
    """Epsilon of the norms."""

    def __post_init__(self) -> None:
        self.require(self.window is None or self.window >= 1, "window", "at least 1")
        self.require(self.rope_base > 1, "rope_base", "above 1")
        self.mamba()

    @property
    def reads(self) -> tuple[str, ...]:
        return SHARED if self.keys_values == "read" else ()

    @property
    def shares(self) -> tuple[str, ...]:
        return SHARED if self.keys_values == "share" else ()

    def mamba(self) -> MambaConfig:
        """The Mamba half, which holds the projection out as well."""
        return MambaConfig(
            d_state=self.d_state,
            d_conv=self.d_conv,
            expand=self.expand,
            dt_rank=self.dt_rank,
            inner_norm="learned",
            norm_eps=self.norm_eps,
        )

    def heads(self, d_model: int) -> tuple[int, int, int, int]:
        """(query heads, key/value heads, width of a query or key, width of a value)."""
        H, K = split_heads(self.name, d_model, self.n_heads, None, even=self.rope)
        G = H if self.n_kv_heads is None else self.n_kv_heads
        require_divides(self.name, "n_kv_heads", G, "n_heads", H)
        E = self.mamba().sizes(d_model)[0]
        require_divides(self.name, "n_heads", H, "the inner width", E)
        return H, G, K, E // H

    def projected(self, d_model: int) -> int:
        """Channels of queries, keys and values together."""
        H, G, K, V = self.heads(d_model)
        return H * K + (0 if self.keys_values == "read" else G * (K + V))

    def build(self, d_model: int) -> "Hymba":
        return Hymba(self, d_model)

    def num_parameters(self, d_model: int) -> int:
        mamba = self.mamba()
        return mamba.num_parameters(d_model) + d_model * self.projected(d_model) + 2 * mamba.sizes(d_model)[0]

    def flops_per_token(self, d_model: int, sequence_length: int) -> float:
        H, _, K, V = self.heads(d_model)
        attention = 2 * d_model * self.projected(d_model) + 2 * H * (K + V) * mean_keys_seen(
            sequence_length, self.window
        )
        return self.mamba().flops_per_token(d_model, sequence_length) + attention

    def state_bytes(self, d_model: int, sequence_length: int, dtype: torch.dtype = torch.bfloat16) -> int:
        mamba = self.mamba().state_bytes(d_model, sequence_length, dtype)
        if self.keys_values == "read":
            return mamba
        _, G, K, V = self.heads(d_model)
        kept = sequence_length if self.window is None else min(sequence_length, self.window - 1)
        return mamba + kept * G * (K + V) * dtype.itemsize + POSITION_BYTES


class Hymba(Layer):
    """Built from a HymbaConfig."""

    def __init__(self, config: HymbaConfig, d_model: int) -> None:
        super().__init__()
        self.H, self.G, self.K, self.V = config.heads(d_model)
        self.reads, self.window = config.keys_values == "read", config.window
        self.rope, self.rope_base = config.rope, config.rope_base
        self.mamba = Mamba(config.mamba(), d_model)
        self.qkv_proj = nn.Linear(d_model, config.projected(d_model), bias=False)
        self.attention_norm = RMSNorm(self.mamba.E, eps=config.norm_eps)
        self.mamba_norm = RMSNorm(self.mamba.E, eps=config.norm_eps)

    def init_state(
        self, batch_size: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> State:
        state = self.mamba.init_state(batch_size, device=device, dtype=dtype)
        if not self.reads:
            state["keys"] = torch.zeros(batch_size, 0, self.G, self.K, device=device, dtype=dtype)
            state["values"] = torch.zeros(batch_size, 0, self.G, self.V, device=device, dtype=dtype)
            state["position"] = torch.zeros(batch_size, device=device, dtype=torch.int64)
        return state

    def forward(
        self, x_BTD: Tensor, state: State | None = None, context: Context | None = None
    ) -> tuple[Tensor, State | None]:
        attended_BTE = self.attention_norm(self._attend(x_BTD, state, context))
        scanned_BTE = self.mamba_norm(self.mamba.inner(x_BTD, state))
        return self.mamba.out_proj((attended_BTE + scanned_BTE) / 2), state

    def _attend(self, x_BTD: Tensor, state: State | None, context: Context | None) -> Tensor:
        """What the attention heads read, [B,T,E]."""
        B, T, _ = x_BTD.shape
        if self.reads:
            assert context is not None
            k, v, position_BT = (context.read(name) for name in SHARED)
            q = self._rotated(self.qkv_proj(x_BTD).unflatten(-1, (self.H, self.K)), position_BT)
            return attend(q, k, v, self.window, visible=context.shared.get(VISIBLE)).flatten(2)
        widths = [self.H * self.K, self.G * self.K, self.G * self.V]
        q, k, v = self.qkv_proj(x_BTD).split(widths, dim=-1)
        position_BT = positions(B, T, None if state is None else state["position"], x_BTD.device)
        q, k = (self._rotated(m.unflatten(-1, (-1, self.K)), position_BT) for m in (q, k))
        v, visible_BS = v.unflatten(-1, (self.G, self.V)), None
        if state is not None:
            reach, visible_BS = remember(state, {"keys": k, "values": v}, self.window)
            k, v = reach["keys"], reach["values"]
        if context is not None:
            share_cache(context, k, v, position_BT, visible_BS)
        return attend(q, k, v, self.window, visible=visible_BS).flatten(2)

    def _rotated(self, x_BTHK: Tensor, position_BT: Tensor) -> Tensor:
        return rotate(x_BTHK, rotation_tables(position_BT, self.K, self.rope_base)) if self.rope else x_BTHK
