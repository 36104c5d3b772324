"""RetNet's multi-scale retention (Sun et al. 2023, equations 5 to 8): a recurrence with one fixed decay per head.

    S_t = γ_h S_{t-1} + k_t v_tᵀ;   o_t = q_tᵀ S_t / sqrt(K);   γ_h = 1 - 2^(-5-h)
    out = W_out (silu(W_g x) * groupnorm(o))

Queries and keys are rotated by their position (the e^{inθ} of xPos; its decay is γ).

State: S [B,H,K,V] in fp32, and the position [B].
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..heads import split_heads
from ..layer import Layer, LayerConfig, State, register
from ..linear_recurrence import POSITION_BYTES, recur, recurrence_flops, zero_state, zero_state_bytes
from ..rotary import positions, rotate, rotation_tables

ROPE_BASE = 10_000.0
GROUP_NORM_EPS = 1e-5


@register
@dataclass(frozen=True, kw_only=True)
class RetNetConfig(LayerConfig):
    """Multi-scale retention."""

    name = "retnet"
    role = "mixer"

    n_heads: int | None = None
    """Heads; left out: by ``head_dim``."""
    head_dim: int | None = None
    """K: width of a head's queries and keys; left out: the divisor of d_model nearest to 64 (the paper: 256)."""
    expand: float = 2.0
    """Width of the values over that of the keys."""

    def __post_init__(self) -> None:
        self.require(self.expand > 0, "expand", "above 0")

    def heads(self, d_model: int) -> tuple[int, int, int]:
        """(heads, key width, value width)."""
        H, K = split_heads(self.name, d_model, self.n_heads, self.head_dim, even=True)
        return H, K, max(1, round(self.expand * K))

    def weights(self, d_model: int) -> int:
        """Entries of the matrices: queries, keys; values, gate and output."""
        H, K, V = self.heads(d_model)
        return d_model * H * (2 * K + 3 * V)

    def build(self, d_model: int) -> "RetNet":
        return RetNet(self, d_model)

    def num_parameters(self, d_model: int) -> int:
        return self.weights(d_model)

    def flops_per_token(self, d_model: int, sequence_length: int) -> float:
        return 2 * self.weights(d_model) + recurrence_flops(*self.heads(d_model))

    def state_bytes(self, d_model: int, sequence_length: int, dtype: torch.dtype = torch.bfloat16) -> int:
        return zero_state_bytes(*self.heads(d_model)) + POSITION_BYTES


class RetNet(Layer):
    """Built from a RetNetConfig."""

    log_decay_H: Tensor

    def __init__(self, config: RetNetConfig, d_model: int) -> None:
        super().__init__()
        self.H, self.K, self.V = config.heads(d_model)
        self.qkvg_proj = nn.Linear(d_model, self.H * 2 * (self.K + self.V), bias=False)
        self.out_proj = nn.Linear(self.H * self.V, d_model, bias=False)
        log_decay = [math.log1p(-(2.0 ** (-5 - h))) for h in range(self.H)]
        self.register_buffer("log_decay_H", torch.tensor(log_decay), persistent=False)

    def init_state(
        self, batch_size: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> State:
        return {
            "recurrent": zero_state(batch_size, self.H, self.K, self.V, device),
            "position": torch.zeros(batch_size, device=device, dtype=torch.int64),
        }

    def forward(self, x_BTD: Tensor, state: State | None = None) -> tuple[Tensor, State | None]:
        B, T, _ = x_BTD.shape
        key, value = self.H * self.K, self.H * self.V
        q, k, v, gate_BTE = self.qkvg_proj(x_BTD).split([key, key, value, value], dim=-1)
        start_B = None if state is None else state["position"]
        tables = rotation_tables(positions(B, T, start_B, x_BTD.device), self.K, ROPE_BASE)
        q_BTHK, k_BTHK = (rotate(m.unflatten(-1, (self.H, self.K)), tables) for m in (q, k))
        o_BTHV = recur(q_BTHK, k_BTHK, v.unflatten(-1, (self.H, self.V)), decay=self.log_decay(x_BTD), state=state)
        if state is not None:
            state["position"] = state["position"] + T
        return self.out_proj(F.silu(gate_BTE) * self.normalized(o_BTHV).flatten(2)), state

    def log_decay(self, x_BTD: Tensor) -> Tensor:
        """log γ, [H]."""
        return self.log_decay_H.float()

    def normalized(self, o_BTHV: Tensor) -> Tensor:
        """Each head's output at a fixed size."""
        return F.layer_norm(o_BTHV, (self.V,), eps=GROUP_NORM_EPS)
