"""Multi-head latent attention (DeepSeek-V2, Liu et al. 2024, section 2.1): keys and values expand one small latent.

    c_t = rmsnorm(W_c x_t);   k_t = [W_k c_t per head; rope(W_r x_t), shared];   v_t = W_v c_t per head
    q_t = [W_q x_t; rope(W_p x_t)] per head;   softmax(q kᵀ / sqrt(K + R)) v

Options: queries through a latent of their own, x_t replaced by rmsnorm(W_l x_t); a gate sigmoid(W_g x_t) per head.

Decoding never expands the past: W_k moves to the query's side and W_v to the output's. State: c [B,S,C] and the shared
key [B,S,R] of every token so far, and the position [B].
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..growing_cache import remember
from ..heads import split_heads
from ..layer import Layer, LayerConfig, State, register
from ..linear_recurrence import POSITION_BYTES
from ..parts import RMSNorm
from ..rotary import positions, rotate, rotation_tables
from ..softmax_attention import attend, mean_keys_seen


@register
@dataclass(frozen=True, kw_only=True)
class MLAConfig(LayerConfig):
    """Multi-head latent attention."""

    name = "mla"
    role = "mixer"

    n_heads: int | None = None
    """Heads. With ``head_dim`` left out, each is d_model / n_heads wide."""
    head_dim: int | None = None
    """K: width of a head's own keys. Given both, their product may differ from d_model. Given neither: the divisor of
    d_model nearest to 64."""
    value_dim: int | None = None
    """V: width of a head's values; left out: as wide as its own keys."""
    q_rank: int | None = None
    """Width of the queries' latent; left out: queries of full rank (DeepSeek-V2-Lite, Kimi Linear)."""
    kv_rank: int | None = None
    """C: width of the latent; left out: four heads wide (the papers')."""
    rope_dim: int | None = None
    """R: width of the key that all heads share; left out: half a head (the papers'), even."""
    rope: bool = True
    """Rotate the shared key by its position (DeepSeek); else it is a key like others (Kimi Linear)."""
    rope_base: float = 10_000.0
    """Longest wavelength of the rotation is 2π times this, in tokens."""
    head_gate: bool = False
    """Multiply each head's output by sigmoid(w x) (Ling)."""
    bias: bool = False
    """Biases of the projections into the latents and of the output."""
    norm_eps: float = 1e-5
    """Epsilon of the latents' norms."""

    def __post_init__(self) -> None:
        for field in ("kv_rank", "q_rank", "value_dim"):
            self.require(getattr(self, field) is None or getattr(self, field) >= 1, field, "at least 1")
        self.require(
            self.rope_dim is None or (self.rope_dim >= 2 and self.rope_dim % 2 == 0), "rope_dim", "even, from 2"
        )
        self.require(self.rope_base > 1, "rope_base", "above 1")

    def sizes(self, d_model: int) -> tuple[int, int, int, int, int]:
        """(heads, width of a head's own keys, of its values, of the latent, of the shared key)."""
        free = self.n_heads is not None and self.head_dim is not None
        width = self.n_heads * self.head_dim if free else d_model  # pyright: ignore[reportOperatorIssue]
        H, K = split_heads(self.name, width, self.n_heads, self.head_dim)
        return H, K, self.value_dim or K, self.kv_rank or 4 * K, self.rope_dim or max(2, K // 4 * 2)

    def weights(self, d_model: int) -> int:
        """Entries of the matrices: queries; latent and shared key; expansion; output; gate."""
        H, K, V, C, R = self.sizes(d_model)
        Q = self.q_rank
        queries = Q * (d_model + H * (K + R)) if Q else d_model * H * (K + R)
        return queries + d_model * (C + R) + C * H * (K + V) + H * V * d_model + self.head_gate * H * d_model

    def build(self, d_model: int) -> "MLA":
        return MLA(self, d_model)

    def num_parameters(self, d_model: int) -> int:
        _, _, _, C, R = self.sizes(d_model)
        Q = self.q_rank or 0
        return self.weights(d_model) + C + Q + self.bias * (C + R + Q + d_model)

    def flops_per_token(self, d_model: int, sequence_length: int) -> float:
        H, K, V, _, R = self.sizes(d_model)
        return 2 * self.weights(d_model) + 2 * H * (K + V + R) * mean_keys_seen(sequence_length)

    def state_bytes(self, d_model: int, sequence_length: int, dtype: torch.dtype = torch.bfloat16) -> int:
        *_, C, R = self.sizes(d_model)
        return sequence_length * (C + R) * dtype.itemsize + POSITION_BYTES


class MLA(Layer):
    """Built from an MLAConfig."""

    def __init__(self, config: MLAConfig, d_model: int) -> None:
        super().__init__()
        self.H, self.K, self.V, self.C, self.R = config.sizes(d_model)
        self.rope, self.rope_base = config.rope, config.rope_base
        Q, bias, eps = config.q_rank, config.bias, config.norm_eps
        self.q_latent_proj = nn.Linear(d_model, Q, bias=bias) if Q else None
        self.q_latent_norm = RMSNorm(Q, eps=eps) if Q else None
        self.q_proj = nn.Linear(Q or d_model, self.H * (self.K + self.R), bias=False)
        self.latent_proj = nn.Linear(d_model, self.C + self.R, bias=bias)
        self.latent_norm = RMSNorm(self.C, eps=eps)
        self.expand_proj = nn.Linear(self.C, self.H * (self.K + self.V), bias=False)  # per head: its key, its value
        self.gate_proj = nn.Linear(d_model, self.H, bias=False) if config.head_gate else None
        self.out_proj = nn.Linear(self.H * self.V, d_model, bias=bias)

    def init_state(
        self, batch_size: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> State:
        return {
            "latents": torch.zeros(batch_size, 0, self.C, device=device, dtype=dtype),
            "shared_keys": torch.zeros(batch_size, 0, self.R, device=device, dtype=dtype),
            "position": torch.zeros(batch_size, device=device, dtype=torch.int64),
        }

    def forward(self, x_BTD: Tensor, state: State | None = None) -> tuple[Tensor, State | None]:
        B, T, _ = x_BTD.shape
        q_BTHK, p_BTHR = self._queries(x_BTD)
        c_BTC, r_BTR = self.latent_proj(x_BTD).split([self.C, self.R], dim=-1)
        c_BTC = self.latent_norm(c_BTC)
        if self.rope:
            start_B = None if state is None else state["position"]
            tables = rotation_tables(positions(B, T, start_B, x_BTD.device), self.R, self.rope_base)
            p_BTHR, r_BTR = rotate(p_BTHR, tables), rotate(r_BTR[:, :, None], tables)[:, :, 0]
        past = 0 if state is None else state["latents"].shape[1]
        visible = None
        if state is not None:
            reach, visible = remember(state, {"latents": c_BTC, "shared_keys": r_BTR})
            c_BTC, r_BTR = reach["latents"], reach["shared_keys"]
        if past:
            o_BTHV = self._absorbed(q_BTHK, p_BTHR, c_BTC, r_BTR, visible)
        else:
            o_BTHV = self._expanded(q_BTHK, p_BTHR, c_BTC, r_BTR)
        if self.gate_proj is not None:
            o_BTHV = o_BTHV * self.gate_proj(x_BTD).sigmoid()[..., None]
        return self.out_proj(o_BTHV.flatten(2)), state

    def _queries(self, x_BTD: Tensor) -> tuple[Tensor, Tensor]:
        """Every head's own query [B,T,H,K] and its query of the shared key [B,T,H,R]."""
        if self.q_latent_proj is not None and self.q_latent_norm is not None:
            x_BTD = self.q_latent_norm(self.q_latent_proj(x_BTD))
        q, p = self.q_proj(x_BTD).unflatten(-1, (self.H, -1)).split([self.K, self.R], dim=-1)
        return q, p

    def _expanded(self, q_BTHK: Tensor, p_BTHR: Tensor, c_BSC: Tensor, r_BSR: Tensor) -> Tensor:
        """o [B,T,H,V] with every head's keys and values written out."""
        k_BSHK, v_BSHV = self.expand_proj(c_BSC).unflatten(-1, (self.H, -1)).split([self.K, self.V], dim=-1)
        shared_BSHR = r_BSR[:, :, None].expand(-1, -1, self.H, -1)
        return attend(torch.cat([q_BTHK, p_BTHR], -1), torch.cat([k_BSHK, shared_BSHR], -1), v_BSHV)

    def _absorbed(
        self, q_BTHK: Tensor, p_BTHR: Tensor, c_BSC: Tensor, r_BSR: Tensor, visible_BS: Tensor | None
    ) -> Tensor:
        """The same from the latents alone: one key (c, r) and one value c for all heads."""
        expand = self.expand_proj.weight.to(c_BSC.dtype).unflatten(0, (self.H, -1))
        key_HKC, value_HVC = expand.split([self.K, self.V], dim=1)
        q_BTHC = torch.einsum("bthk,hkc->bthc", q_BTHK, key_HKC)
        q, k = torch.cat([q_BTHC, p_BTHR], -1), torch.cat([c_BSC, r_BSR], -1)[:, :, None]
        o_BTHC = attend(q, k, c_BSC[:, :, None], scale=(self.K + self.R) ** -0.5, visible=visible_BS)
        return torch.einsum("bthc,hvc->bthv", o_BTHC, value_HVC)
