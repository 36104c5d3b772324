"""Gated linear attention (Yang et al. 2023, section 4): a linear recurrence with a decay per token and key channel.

    α_t = sigmoid(W₂ W₁ x_t + b)^(1/16);   S_t = Diag(α_t) S_{t-1} + k_t v_tᵀ;   o_t = q_tᵀ S_t / sqrt(K)
    out = W_out (silu(W_g x) * rmsnorm(o) per head)

State: S [B,H,K,V] in fp32.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...kernels import gated_rms_norm
from ..heads import split_heads
from ..layer import Layer, LayerConfig, State, register
from ..linear_recurrence import recur, recurrence_flops, zero_state, zero_state_bytes


@register
@dataclass(frozen=True, kw_only=True)
class GLAConfig(LayerConfig):
    """Gated linear attention."""

    name = "gla"
    role = "mixer"

    n_heads: int | None = None
    """Heads; left out: by ``head_dim``."""
    head_dim: int | None = None
    """V: width of a head's values; left out: the divisor of d_model nearest to 64."""
    d_state: int | None = None
    """K: width of a head's queries and keys; left out: half of its values' (the paper's)."""
    decay_rank: int = 16
    """Rank of the decay's projection."""
    decay_temperature: float = 16.0
    """The decay is a sigmoid to the power 1 over this: the larger, the slower it forgets at first."""

    def __post_init__(self) -> None:
        self.require(self.d_state is None or self.d_state >= 1, "d_state", "at least 1")
        self.require(self.decay_rank >= 1, "decay_rank", "at least 1")
        self.require(self.decay_temperature > 0, "decay_temperature", "above 0")

    def heads(self, d_model: int) -> tuple[int, int, int]:
        """(heads, key width, value width)."""
        H, V = split_heads(self.name, d_model, self.n_heads, self.head_dim)
        return H, self.d_state or max(1, V // 2), V

    def weights(self, d_model: int) -> int:
        """Entries of the matrices: queries, keys; values, gate and output; the two of the decay."""
        H, K, V = self.heads(d_model)
        return d_model * H * (2 * K + 3 * V) + self.decay_rank * (d_model + H * K)

    def build(self, d_model: int) -> "GLA":
        return GLA(self, d_model)

    def num_parameters(self, d_model: int) -> int:
        H, K, V = self.heads(d_model)
        return self.weights(d_model) + H * K + V

    def flops_per_token(self, d_model: int, sequence_length: int) -> float:
        return 2 * self.weights(d_model) + recurrence_flops(*self.heads(d_model))

    def state_bytes(self, d_model: int, sequence_length: int, dtype: torch.dtype = torch.bfloat16) -> int:
        return zero_state_bytes(*self.heads(d_model))


class GLA(Layer):
    """Built from a GLAConfig."""

    def __init__(self, config: GLAConfig, d_model: int) -> None:
        super().__init__()
        self.H, self.K, self.V = config.heads(d_model)
        self.temperature = config.decay_temperature
        self.rank = config.decay_rank
        self.in_proj = nn.Linear(d_model, self.H * 2 * (self.K + self.V) + self.rank, bias=False)
        self.decay_proj = nn.Linear(self.rank, self.H * self.K)
        self.norm_weight = nn.Parameter(torch.ones(self.V))
        self.out_proj = nn.Linear(self.H * self.V, d_model, bias=False)

    def init_state(
        self, batch_size: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> State:
        return {"recurrent": zero_state(batch_size, self.H, self.K, self.V, device)}

    def forward(self, x_BTD: Tensor, state: State | None = None) -> tuple[Tensor, State | None]:
        key, value = self.H * self.K, self.H * self.V
        q, k, v, gate, low = self.in_proj(x_BTD).split([key, key, value, value, self.rank], dim=-1)
        q_BTHK, k_BTHK, decay_BTHK = (m.unflatten(-1, (self.H, self.K)) for m in (q, k, self.decay_proj(low)))
        v_BTHV, gate_BTHV = (m.unflatten(-1, (self.H, self.V)) for m in (v, gate))
        decay_BTHK = F.logsigmoid(decay_BTHK.float()) / self.temperature
        o_BTHV = recur(q_BTHK, k_BTHK, v_BTHV, decay=decay_BTHK, state=state)
        o_BTHV = gated_rms_norm(o_BTHV, gate_BTHV, self.norm_weight, norm_before_gate=True)
        return self.out_proj(o_BTHV.flatten(2)), state
