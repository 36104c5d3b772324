"""H3 (Fu et al. 2022, "Hungry Hungry Hippos", section 3.1, heads of width 1): two state spaces and two gates.

    q, k, v = W u + b;   out = W_out (q * ssm_diagonal(ssm_shift(k) * v)) + b

The shift state space remembers the last N inputs: a causal convolution over N tokens, plus a skip.

State: the last N-1 keys [B,N-1,D], and the diagonal space's N/2 complex numbers per channel [B,D,N/2].
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..diagonal_ssm import modes_bytes, ssm_flops, ssm_parameters
from ..layer import Layer, State, register
from ..parts import ShortConvolution, convolution_parameters, tail_bytes
from .s4d import DiagonalConfig


@register
@dataclass(frozen=True, kw_only=True)
class H3Config(DiagonalConfig):
    """H3; ``d_state`` is the size of both state spaces."""

    name = "h3"

    def build(self, d_model: int) -> "H3":
        return H3(self, d_model)

    def num_parameters(self, d_model: int) -> int:
        shift = convolution_parameters(d_model, self.d_state, False) + d_model
        return 4 * d_model * (d_model + 1) + shift + ssm_parameters(d_model, self.d_state)

    def flops_per_token(self, d_model: int, sequence_length: int) -> float:
        return 8 * d_model**2 + 2 * d_model * self.d_state + ssm_flops(d_model, self.d_state)

    def state_bytes(self, d_model: int, sequence_length: int, dtype: torch.dtype = torch.bfloat16) -> int:
        return tail_bytes(d_model, self.d_state, dtype) + modes_bytes(d_model, self.d_state)


class H3(Layer):
    """Built from an H3Config."""

    def __init__(self, config: H3Config, d_model: int) -> None:
        super().__init__()
        self.qkv_proj = nn.Linear(d_model, 3 * d_model)
        self.shift = ShortConvolution(d_model, config.d_state, bias=False, activation=None)
        self.shift_skip = nn.Parameter(torch.randn(d_model))
        self.ssm = config.state_space(d_model)
        self.out_proj = nn.Linear(d_model, d_model)

    def init_state(
        self, batch_size: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> State:
        return {
            "conv": self.shift.init_tail(batch_size, device=device, dtype=dtype),
            "modes": self.ssm.init_modes(batch_size, device=device),
        }

    def forward(self, x_BTD: Tensor, state: State | None = None) -> tuple[Tensor, State | None]:
        q_BTD, k_BTD, v_BTD = self.qkv_proj(x_BTD).chunk(3, dim=-1)
        shifted_BTD = self.shift(k_BTD, state) + k_BTD * self.shift_skip
        return self.out_proj(q_BTD * self.ssm(shifted_BTD * v_BTD, state)), state
