"""Lightning attention (Qin et al. 2024; MiniMax-01, section 2.2): linear attention with one fixed decay
per head, falling as ALiBi's slopes do.

    q, k, v = silu(W x);   S_t = exp(-s_h) S_{t-1} + k_t v_tᵀ;   o_t = q_tᵀ S_t;   s_h = factor * 2^(-8h/H), h = 1..H
    out = W_out (sigmoid(W_g x) * rmsnorm(o))

State: S [B,H,K,K] in fp32.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..heads import split_heads
from ..layer import Layer, LayerConfig, State, register
from ..linear_recurrence import recur, recurrence_flops, zero_state, zero_state_bytes
from ..parts import RMSNorm


@register
@dataclass(frozen=True, kw_only=True)
class LightningConfig(LayerConfig):
    """Lightning attention."""

    name = "lightning"
    role = "mixer"

    n_heads: int | None = None
    """Heads. With ``head_dim`` left out, each is d_model / n_heads wide."""
    head_dim: int | None = None
    """K: width of a head. Given both, their product may differ from d_model. Given neither: nearest to 64."""
    decay_factor: float = 1.0
    """Scales all slopes. MiniMax-01 lowers it with depth, from 1 at the first layer to almost 0 at the last."""
    norm_eps: float = 1e-5
    """Epsilon of the output's norm."""

    def __post_init__(self) -> None:
        self.require(self.decay_factor >= 0, "decay_factor", "at least 0")

    def heads(self, d_model: int) -> tuple[int, int]:
        """(heads, width of a head)."""
        free = self.n_heads is not None and self.head_dim is not None
        width = self.n_heads * self.head_dim if free else d_model  # pyright: ignore[reportOperatorIssue]
        return split_heads(self.name, width, self.n_heads, self.head_dim)

    def weights(self, d_model: int) -> int:
        """Entries of the matrices: queries, keys, values, gate and output."""
        H, K = self.heads(d_model)
        return 5 * d_model * H * K

    def build(self, d_model: int) -> "Lightning":
        return Lightning(self, d_model)

    def num_parameters(self, d_model: int) -> int:
        H, K = self.heads(d_model)
        return self.weights(d_model) + H * K

    def flops_per_token(self, d_model: int, sequence_length: int) -> float:
        H, K = self.heads(d_model)
        return 2 * self.weights(d_model) + recurrence_flops(H, K, K)

    def state_bytes(self, d_model: int, sequence_length: int, dtype: torch.dtype = torch.bfloat16) -> int:
        H, K = self.heads(d_model)
        return zero_state_bytes(H, K, K)


class Lightning(Layer):
    """Built from a LightningConfig."""

    log_decay_H: Tensor

    def __init__(self, config: LightningConfig, d_model: int) -> None:
        super().__init__()
        self.H, self.K = config.heads(d_model)
        inner = self.H * self.K
        self.qkv_proj = nn.Linear(d_model, 3 * inner, bias=False)
        self.gate_proj = nn.Linear(d_model, inner, bias=False)
        self.norm = RMSNorm(inner, eps=config.norm_eps)
        self.out_proj = nn.Linear(inner, d_model, bias=False)
        log_decay = [-config.decay_factor * 2.0 ** (-8 * (h + 1) / self.H) for h in range(self.H)]
        self.register_buffer("log_decay_H", torch.tensor(log_decay), persistent=False)

    def init_state(
        self, batch_size: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> State:
        return {"recurrent": zero_state(batch_size, self.H, self.K, self.K, device)}

    def forward(self, x_BTD: Tensor, state: State | None = None) -> tuple[Tensor, State | None]:
        qkv = F.silu(self.qkv_proj(x_BTD)).unflatten(-1, (3, self.H, self.K))
        q_BTHK, k_BTHK, v_BTHK = qkv.unbind(2)
        o_BTHK = recur(q_BTHK, k_BTHK, v_BTHK, decay=self.log_decay_H.float(), scale=1.0, state=state)
        return self.out_proj(self.gate_proj(x_BTD).sigmoid() * self.norm(o_BTHK.flatten(2))), state
