"""Multi-head latent attention (DeepSeek-V2, Liu et al. 2024, section 2.1): keys and values expand one small latent.

    c_t = rmsnorm(W_c x_t);   k_t = [W_k c_t per head; rope(W_r x_t), shared];   v_t = W_v c_t per head
    q_t = [W_q x_t; rope(W_p x_t)] per head;   softmax(q kᵀ / sqrt(K + R)) v

Decoding never expands the past: W_k moves to the query's side and W_v to the output's. State: c [B,S,C] and the shared
key [B,S,R] of every token so far, and the position [B].
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..growing_cache import append
from ..heads import split_heads
from ..layer import Layer, LayerConfig, State, register
from ..linear_recurrence import POSITION_BYTES
from ..parts import RMSNorm
from ..rotary import positions, rotate, rotation_tables
from ..softmax_attention import attend, mean_keys_seen


@register
@dataclass(frozen=True, kw_only=True)
class MLAConfig(LayerConfig):
    """Multi-head latent attention with queries of full rank (DeepSeek-V2-Lite, Kimi Linear)."""

    name = "mla"
    role = "mixer"

    n_heads: int | None = None
    """Heads. With ``head_dim`` left out, each is d_model / n_heads wide."""
    head_dim: int | None = None
    """K: width of a head's own keys, and of its values. Given both, their product may differ from d_model. Given
    neither: the divisor of d_model nearest to 64."""
    kv_rank: int | None = None
    """C: width of the latent; left out: four heads wide (the papers')."""
    rope_dim: int | None = None
    """R: width of the key that all heads share; left out: half a head (the papers'), even."""
    rope: bool = True
    """Rotate the shared key by its position (DeepSeek); else it is a key like others (Kimi Linear)."""
    rope_base: float = 10_000.0
    """Longest wavelength of the rotation is 2π times this, in tokens."""

    def __post_init__(self) -> None:
        self.require(self.kv_rank is None or self.kv_rank >= 1, "kv_rank", "at least 1")
        self.require(
            self.rope_dim is None or (self.rope_dim >= 2 and self.rope_dim % 2 == 0), "rope_dim", "even, from 2"
        )
        self.require(self.rope_base > 1, "rope_base", "above 1")

    def sizes(self, d_model: int) -> tuple[int, int, int, int]:
        """(heads, width of a head, of the latent, of the shared key)."""
        free = self.n_heads is not None and self.head_dim is not None
        width = self.n_heads * self.head_dim if free else d_model  # pyright: ignore[reportOperatorIssue]
        H, K = split_heads(self.name, width, self.n_heads, self.head_dim)
        return H, K, self.kv_rank or 4 * K, self.rope_dim or max(2, K // 4 * 2)

    def weights(self, d_model: int) -> int:
        """Entries of the matrices: queries; latent and shared key; expansion; output."""
        H, K, C, R = self.sizes(d_model)
        return d_model * H * (K + R) + d_model * (C + R) + C * H * 2 * K + H * K * d_model

    def build(self, d_model: int) -> "MLA":
        return MLA(self, d_model)

    def num_parameters(self, d_model: int) -> int:
        return self.weights(d_model) + self.sizes(d_model)[2]

    def flops_per_token(self, d_model: int, sequence_length: int) -> float:
        H, K, _, R = self.sizes(d_model)
        return 2 * self.weights(d_model) + 2 * H * (2 * K + R) * mean_keys_seen(sequence_length)

    def state_bytes(self, d_model: int, sequence_length: int, dtype: torch.dtype = torch.bfloat16) -> int:
        _, _, C, R = self.sizes(d_model)
        return sequence_length * (C + R) * dtype.itemsize + POSITION_BYTES


class MLA(Layer):
    """Built from an MLAConfig."""

    def __init__(self, config: MLAConfig, d_model: int) -> None:
        super().__init__()
        self.H, self.K, self.C, self.R = config.sizes(d_model)
        self.rope, self.rope_base = config.rope, config.rope_base
        self.q_proj = nn.Linear(d_model, self.H * (self.K + self.R), bias=False)
        self.latent_proj = nn.Linear(d_model, self.C + self.R, bias=False)
        self.latent_norm = RMSNorm(self.C)
        self.expand_proj = nn.Linear(self.C, self.H * 2 * self.K, bias=False)  # per head: its key, then its value
        self.out_proj = nn.Linear(self.H * self.K, d_model, bias=False)

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
        q_BTHK, p_BTHR = self.q_proj(x_BTD).unflatten(-1, (self.H, -1)).split([self.K, self.R], dim=-1)
        c_BTC, r_BTR = self.latent_proj(x_BTD).split([self.C, self.R], dim=-1)
        c_BTC = self.latent_norm(c_BTC)
        if self.rope:
            start_B = None if state is None else state["position"]
            tables = rotation_tables(positions(B, T, start_B, x_BTD.device), self.R, self.rope_base)
            p_BTHR, r_BTR = rotate(p_BTHR, tables), rotate(r_BTR[:, :, None], tables)[:, :, 0]
        past = 0 if state is None else state["latents"].shape[1]
        if state is not None:
            c_BTC, r_BTR = _remember(state, c_BTC, r_BTR)
        form = self._absorbed if past else self._expanded
        return self.out_proj(form(q_BTHK, p_BTHR, c_BTC, r_BTR).flatten(2)), state

    def _expanded(self, q_BTHK: Tensor, p_BTHR: Tensor, c_BSC: Tensor, r_BSR: Tensor) -> Tensor:
        """o [B,T,H,K] with every head's keys and values written out."""
        k_BSHK, v_BSHK = self.expand_proj(c_BSC).unflatten(-1, (self.H, -1)).chunk(2, dim=-1)
        shared_BSHR = r_BSR[:, :, None].expand(-1, -1, self.H, -1)
        return attend(torch.cat([q_BTHK, p_BTHR], -1), torch.cat([k_BSHK, shared_BSHR], -1), v_BSHK)

    def _absorbed(self, q_BTHK: Tensor, p_BTHR: Tensor, c_BSC: Tensor, r_BSR: Tensor) -> Tensor:
        """The same from the latents alone: one key (c, r) and one value c for all heads."""
        key_HKC, value_HKC = self.expand_proj.weight.to(c_BSC.dtype).unflatten(0, (self.H, 2, self.K)).unbind(1)
        q_BTHC = torch.einsum("bthk,hkc->bthc", q_BTHK, key_HKC)
        q, k = torch.cat([q_BTHC, p_BTHR], -1), torch.cat([c_BSC, r_BSR], -1)[:, :, None]
        o_BTHC = attend(q, k, c_BSC[:, :, None], scale=(self.K + self.R) ** -0.5)
        return torch.einsum("bthc,hkc->bthk", o_BTHC, value_HKC)


def _remember(state: State, c_BTC: Tensor, r_BTR: Tensor) -> tuple[Tensor, Tensor]:
    """All latents and shared keys so far, which the state keeps."""
    state["position"] = state["position"] + c_BTC.shape[1]
    for name, new in (("latents", c_BTC), ("shared_keys", r_BTR)):
        state[name] = append(state[name], new)
    return state["latents"].to(c_BTC.dtype), state["shared_keys"].to(r_BTR.dtype)
