"""Softmax attention: softmax(q kᵀ / sqrt(K)) v over all earlier tokens (Vaswani et al. 2017), keys and values shared by
groups of query heads where ``n_kv_heads`` is smaller (Ainslie et al. 2023).

State: keys [B,S,kv heads,K] (already rotated) and values of every token so far, and its position [B].
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..growing_cache import append
from ..heads import require_divides, split_heads
from ..layer import Layer, LayerConfig, State, register
from ..linear_recurrence import POSITION_BYTES
from ..parts import RMSNorm
from ..rotary import positions, rotate, rotation_tables
from ..softmax_attention import attend, mean_keys_seen


@register
@dataclass(frozen=True, kw_only=True)
class AttentionConfig(LayerConfig):
    """Full causal attention."""

    name = "attn"
    role = "mixer"
    window: ClassVar[int | None] = None

    n_heads: int | None = None
    """Query heads. With ``head_dim`` left out, each is d_model / n_heads wide."""
    head_dim: int | None = None
    """Width of a head. Given both, their product may differ from d_model. Given neither: the divisor nearest to 64."""
    n_kv_heads: int | None = None
    """Heads of keys and values, a divisor of the query heads; left out: as many."""
    rope: bool = True
    """Rotary positions (else none)."""
    rope_fraction: float = 1.0
    """The part of a head's channels that is rotated, in (0, 1]."""
    rope_base: float = 10_000.0
    """Longest wavelength of the rotation is 2π times this, in tokens."""
    qk_norm: bool = False
    """RMS-normalise queries and keys, head by head, before the rotation (Qwen3, OLMo-2)."""
    output_gate: bool = False
    """Multiply the heads' output by sigmoid(W x) (Qwen3-Next)."""

    def __post_init__(self) -> None:
        self.require(0 < self.rope_fraction <= 1, "rope_fraction", "above 0 and at most 1")
        self.require(self.rope_base > 1, "rope_base", "above 1")

    def heads(self, d_model: int) -> tuple[int, int, int]:
        """(query heads, key/value heads, width of a head)."""
        if self.n_heads is not None and self.head_dim is not None:
            H, K = split_heads(self.name, self.n_heads * self.head_dim, self.n_heads, self.head_dim, even=self.rope)
        else:
            H, K = split_heads(self.name, d_model, self.n_heads, self.head_dim, even=self.rope)
        G = H if self.n_kv_heads is None else self.n_kv_heads
        require_divides(self.name, "n_kv_heads", G, "n_heads", H)
        return H, G, K

    def rotated_channels(self, head_dim: int) -> int:
        """An even number of a head's channels, at least 2, or 0 without rope."""
        return max(2, int(head_dim * self.rope_fraction) // 2 * 2) if self.rope else 0

    def build(self, d_model: int) -> "Attention":
        return Attention(self, d_model)

    def num_parameters(self, d_model: int) -> int:
        H, G, K = self.heads(d_model)
        return d_model * K * (2 * H + 2 * G + self.output_gate * H) + self.qk_norm * 2 * K

    def flops_per_token(self, d_model: int, sequence_length: int) -> float:
        H, G, K = self.heads(d_model)
        projections = 2 * d_model * K * (2 * H + 2 * G + self.output_gate * H)
        return projections + 4 * H * K * mean_keys_seen(sequence_length, self.window)

    def state_bytes(self, d_model: int, sequence_length: int, dtype: torch.dtype = torch.bfloat16) -> int:
        _, G, K = self.heads(d_model)
        kept = sequence_length if self.window is None else min(sequence_length, self.window - 1)
        return 2 * kept * G * K * dtype.itemsize + POSITION_BYTES


class Attention(Layer):
    """Built from an AttentionConfig."""

    def __init__(self, config: AttentionConfig, d_model: int) -> None:
        super().__init__()
        self.H, self.G, self.K = config.heads(d_model)
        self.window = config.window
        self.n_rotated, self.rope_base = config.rotated_channels(self.K), config.rope_base
        self.qkv_proj = nn.Linear(d_model, (self.H + 2 * self.G) * self.K, bias=False)
        self.gate_proj = nn.Linear(d_model, self.H * self.K, bias=False) if config.output_gate else None
        self.q_norm = RMSNorm(self.K) if config.qk_norm else None
        self.k_norm = RMSNorm(self.K) if config.qk_norm else None
        self.out_proj = nn.Linear(self.H * self.K, d_model, bias=False)

    def init_state(
        self, batch_size: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> State:
        nothing = torch.zeros(batch_size, 0, self.G, self.K, device=device, dtype=dtype)
        return {
            "keys": nothing,
            "values": nothing.clone(),
            "position": torch.zeros(batch_size, device=device, dtype=torch.int64),
        }

    def forward(self, x_BTD: Tensor, state: State | None = None) -> tuple[Tensor, State | None]:
        B, T, _ = x_BTD.shape
        qkv = self.qkv_proj(x_BTD).unflatten(-1, (-1, self.K))
        q_BTHK, k_BTGK, v_BTGK = qkv.split([self.H, self.G, self.G], dim=2)
        if self.q_norm is not None and self.k_norm is not None:
            q_BTHK, k_BTGK = self.q_norm(q_BTHK), self.k_norm(k_BTGK)
        if self.n_rotated:
            start_B = None if state is None else state["position"]
            tables = rotation_tables(positions(B, T, start_B, x_BTD.device), self.n_rotated, self.rope_base)
            q_BTHK, k_BTGK = rotate(q_BTHK, tables), rotate(k_BTGK, tables)
        if state is not None:
            k_BTGK, v_BTGK = self._remember(state, k_BTGK, v_BTGK)
        o_BTHK = attend(q_BTHK, k_BTGK, v_BTGK, self.window)
        o_BTE = o_BTHK.flatten(2)
        if self.gate_proj is not None:
            o_BTE = o_BTE * self.gate_proj(x_BTD).sigmoid()
        return self.out_proj(o_BTE), state

    def _remember(self, state: State, k_BTGK: Tensor, v_BTGK: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values in reach; the state keeps those that the next token may see."""
        state["position"] = state["position"] + k_BTGK.shape[1]
        reach = []
        for name, new in (("keys", k_BTGK), ("values", v_BTGK)):
            seen = append(state[name], new)
            kept = seen.shape[1] if self.window is None else min(seen.shape[1], self.window - 1)
            state[name] = seen if kept == seen.shape[1] else seen[:, seen.shape[1] - kept :].clone()
            reach.append(seen.to(new.dtype))
        return reach[0], reach[1]
