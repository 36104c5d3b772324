"""RWKV's channel mixing: a squared-ReLU MLP and a gate over a token-shifted input (RWKV-6, Peng et al. 2024, section
4.2); RWKV-7 (Peng et al. 2025) has no gate.

    k = x + (x_prev - x) * μ_k;   r = x + (x_prev - x) * μ_r;   out = sigmoid(W_r r) * W_out relu(W_k k)²

State: the last input [B,D].
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layer import Layer, LayerConfig, State, register
from ..token_shift import ramp, shift
from .mlp import HIDDEN_MULTIPLE


@register
@dataclass(frozen=True, kw_only=True)
class RWKVChannelConfig(LayerConfig):
    """RWKV-6's channel mixing, or without its gate RWKV-7's."""

    name = "rwkv_channel"
    role = "mlp"

    hidden: int | None = None
    """Hidden width; left out: 3.5 d_model with the gate, 4 without, to the nearest multiple of 8."""
    gate: bool = True
    """RWKV-6's gate sigmoid(W_r r)."""

    def __post_init__(self) -> None:
        self.require(self.hidden is None or self.hidden >= 1, "hidden", "at least 1")

    def width(self, d_model: int) -> int:
        """The hidden width."""
        ratio = 3.5 if self.gate else 4.0
        return self.hidden or max(1, round(ratio * d_model / HIDDEN_MULTIPLE)) * HIDDEN_MULTIPLE

    def weights(self, d_model: int) -> int:
        """Entries of the two or three matrices."""
        return 2 * d_model * self.width(d_model) + self.gate * d_model**2

    def build(self, d_model: int) -> "RWKVChannel":
        return RWKVChannel(self, d_model)

    def num_parameters(self, d_model: int) -> int:
        return self.weights(d_model) + (1 + self.gate) * d_model

    def flops_per_token(self, d_model: int, sequence_length: int) -> float:
        return 2 * self.weights(d_model)

    def state_bytes(self, d_model: int, sequence_length: int, dtype: torch.dtype = torch.bfloat16) -> int:
        return d_model * dtype.itemsize


class RWKVChannel(Layer):
    """Built from an RWKVChannelConfig."""

    def __init__(self, config: RWKVChannelConfig, d_model: int) -> None:
        super().__init__()
        mix = 1 - ramp(d_model) ** 0.5  # the official trainer's, for a layer in the middle of the stack
        self.mix_k = nn.Parameter(mix)
        self.mix_r = nn.Parameter(mix.clone()) if config.gate else None
        self.k_proj = nn.Linear(d_model, config.width(d_model), bias=False)
        self.r_proj = nn.Linear(d_model, d_model, bias=False) if config.gate else None
        self.out_proj = nn.Linear(config.width(d_model), d_model, bias=False)

    def init_state(
        self, batch_size: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> State:
        return {"previous": torch.zeros(batch_size, self.mix_k.shape[0], device=device, dtype=dtype)}

    def forward(self, x_BTD: Tensor, state: State | None = None) -> tuple[Tensor, State | None]:
        back_BTD = shift(x_BTD, state) - x_BTD
        y_BTD = self.out_proj(F.relu(self.k_proj(x_BTD + back_BTD * self.mix_k)).square())
        if self.r_proj is not None and self.mix_r is not None:
            y_BTD = self.r_proj(x_BTD + back_BTD * self.mix_r).sigmoid() * y_BTD
        return y_BTD, state
