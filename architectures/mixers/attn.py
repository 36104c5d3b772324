"""Softmax attention: softmax(q kᵀ / sqrt(K)) v over all earlier tokens (Vaswani et al. 2017), keys and values shared by
groups of query heads where ``n_kv_heads`` is smaller (Ainslie et al. 2023).

State: keys [B,S,kv heads,K] (already rotated) and values of every token so far, and its position [B].
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from ..context import Context
from ..growing_cache import remember
from ..heads import require_divides, split_heads
from ..layer import Layer, LayerConfig, State, register
from ..linear_recurrence import POSITION_BYTES
from ..parts import RMSNorm
from ..rotary import positions, rotate, rotation_tables
from ..shared_cache import SHARED, ReadingAttention, share_cache
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
    scale: float | None = None
    """What queries times keys are multiplied by; left out: 1/sqrt(width of a head)."""
    qk_norm: bool = False
    """RMS-normalise queries and keys before the rotation (Qwen3, OLMo-2)."""
    qk_norm_over: Literal["head", "all"] = "head"
    """What that norm is over: each head (Qwen3), or the channels of all heads (OLMo-2, OLMo-Hybrid)."""
    norm_eps: float = 1e-5
    """Epsilon of that norm."""
    output_gate: bool = False
    """Multiply the heads' output by sigmoid(W x) (Qwen3-Next)."""
    bias: bool = False
    """Biases of queries, keys, values and gate."""
    out_bias: bool = False
    """A bias of the output."""
    keys_values: Literal["own", "share", "read"] = "own"
    """own; share: later layers may read them too; read: those of the nearest earlier layer that shares, whose heads
    must be as wide and whose window at least as long (YOCO, Hymba)."""

    def __post_init__(self) -> None:
        self.require(0 < self.rope_fraction <= 1, "rope_fraction", "above 0 and at most 1")
        self.require(self.rope_base > 1, "rope_base", "above 1")
        self.require(self.scale is None or self.scale > 0, "scale", "above 0")

    @property
    def reads(self) -> tuple[str, ...]:
        return SHARED if self.keys_values == "read" else ()

    @property
    def shares(self) -> tuple[str, ...]:
        return SHARED if self.keys_values == "share" else ()

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

    def normed_channels(self, d_model: int) -> tuple[int, int]:
        """Weights of the queries' norm and of the keys'."""
        H, G, K = self.heads(d_model)
        heads = (H, G) if self.qk_norm_over == "all" else (1, 1)
        made = (heads[0] * K, 0 if self.keys_values == "read" else heads[1] * K)
        return made if self.qk_norm else (0, 0)

    def projected(self, d_model: int) -> int:
        """Channels of queries, keys, values and gate together."""
        H, G, K = self.heads(d_model)
        return K * (H + (0 if self.keys_values == "read" else 2 * G) + self.output_gate * H)

    def build(self, d_model: int) -> "Attention | ReadingAttention":
        if self.keys_values != "read":
            return Attention(self, d_model)
        H, _, K = self.heads(d_model)
        return ReadingAttention(
            d_model,
            n_heads=H,
            head_dim=K,
            window=self.window,
            scale=self.scale,
            n_rotated=self.rotated_channels(K),
            rope_base=self.rope_base,
            normed_channels=self.normed_channels(d_model)[0],
            norm_eps=self.norm_eps,
            output_gate=self.output_gate,
            bias=self.bias,
            out_bias=self.out_bias,
        )

    def num_parameters(self, d_model: int) -> int:
        H, _, K = self.heads(d_model)
        biases = self.bias * self.projected(d_model) + self.out_bias * d_model
        return d_model * (self.projected(d_model) + H * K) + biases + sum(self.normed_channels(d_model))

    def flops_per_token(self, d_model: int, sequence_length: int) -> float:
        H, _, K = self.heads(d_model)
        projections = 2 * d_model * (self.projected(d_model) + H * K)
        return projections + 4 * H * K * mean_keys_seen(sequence_length, self.window)

    def state_bytes(self, d_model: int, sequence_length: int, dtype: torch.dtype = torch.bfloat16) -> int:
        _, G, K = self.heads(d_model)
        if self.keys_values == "read":
            return 0
        kept = sequence_length if self.window is None else min(sequence_length, self.window - 1)
        return 2 * kept * G * K * dtype.itemsize + POSITION_BYTES


class Attention(Layer):
    """Built from an AttentionConfig."""

    def __init__(self, config: AttentionConfig, d_model: int, *, in_width: int | None = None) -> None:
        """``in_width``: of what queries, keys and values are projected from, where it is not d_model."""
        super().__init__()
        in_width = in_width or d_model
        self.H, self.G, self.K = config.heads(d_model)
        self.window, self.scale = config.window, config.scale
        self.n_rotated, self.rope_base = config.rotated_channels(self.K), config.rope_base
        self.qkv_proj = nn.Linear(in_width, (self.H + 2 * self.G) * self.K, bias=config.bias)
        self.gate_proj = nn.Linear(in_width, self.H * self.K, bias=config.bias) if config.output_gate else None
        of_queries, of_keys = config.normed_channels(d_model)
        self.q_norm = RMSNorm(of_queries, eps=config.norm_eps) if of_queries else None
        self.k_norm = RMSNorm(of_keys, eps=config.norm_eps) if of_keys else None
        self.out_proj = nn.Linear(self.H * self.K, d_model, bias=config.out_bias)

    def init_state(
        self, batch_size: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> State:
        nothing = torch.zeros(batch_size, 0, self.G, self.K, device=device, dtype=dtype)
        return {
            "keys": nothing,
            "values": nothing.clone(),
            "position": torch.zeros(batch_size, device=device, dtype=torch.int64),
        }

    def forward(
        self, x_BTD: Tensor, state: State | None = None, context: Context | None = None
    ) -> tuple[Tensor, State | None]:
        o_BTE = self.heads(self.qkv_proj(x_BTD), state, context)
        if self.gate_proj is not None:
            o_BTE = o_BTE * self.gate_proj(x_BTD).sigmoid()
        return self.out_proj(o_BTE), state

    def heads(self, qkv_BTE: Tensor, state: State | None, context: Context | None = None) -> Tensor:
        """What the heads read, [B,T,HK], of queries, keys and values [B,T,(H+2G)K]; a state is read and replaced."""
        B, T, _ = qkv_BTE.shape
        qkv = qkv_BTE.unflatten(-1, (-1, self.K))
        q_BTHK, k_BTGK, v_BTGK = qkv.split([self.H, self.G, self.G], dim=2)
        if self.q_norm is not None and self.k_norm is not None:
            q_BTHK, k_BTGK = _normed(q_BTHK, self.q_norm), _normed(k_BTGK, self.k_norm)
        position_BT = positions(B, T, None if state is None else state["position"], qkv.device)
        if self.n_rotated:
            tables = rotation_tables(position_BT, self.n_rotated, self.rope_base)
            q_BTHK, k_BTGK = rotate(q_BTHK, tables), rotate(k_BTGK, tables)
        visible = None
        if state is not None:
            reach, visible = remember(state, {"keys": k_BTGK, "values": v_BTGK}, self.window)
            k_BTGK, v_BTGK = reach["keys"], reach["values"]
        if context is not None:
            share_cache(context, k_BTGK, v_BTGK, position_BT, visible)
        return self.read(q_BTHK, k_BTGK, v_BTGK, position_BT, visible).flatten(2)

    def read(
        self, q_BTHK: Tensor, k_BSGK: Tensor, v_BSGK: Tensor, position_BT: Tensor, visible_BS: Tensor | None
    ) -> Tensor:
        """o [B,T,H,K]: what the queries at ``position_BT`` see of the keys and values; see ``attend``."""
        return attend(q_BTHK, k_BSGK, v_BSGK, self.window, self.scale, visible_BS)


def _normed(x_BTHK: Tensor, norm: RMSNorm) -> Tensor:
    """Over each head, or over the channels of all heads where the norm has as many."""
    B, T, H, K = x_BTHK.shape
    return norm(x_BTHK.reshape(B, T, -1, norm.weight.shape[0])).view(B, T, H, K)
