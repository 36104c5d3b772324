"""The gated short convolution of LFM2 (Liquid AI 2025): two gates around a convolution over a few tokens.

    b, c, x = W_in u;   out = W_out (c * conv(b * x))

State: the last W-1 inputs of the convolution, [B,W-1,D].
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..layer import Layer, LayerConfig, State, register
from ..parts import ShortConvolution, convolution_parameters, tail_bytes


@register
@dataclass(frozen=True, kw_only=True)
class ConvConfig(LayerConfig):
    """LFM2's gated short convolution."""

    name = "conv"
    role = "mixer"

    d_conv: int = 3
    """Tokens that the convolution sees."""
    bias: bool = False
    """Biases of both matrices and of the convolution."""

    def __post_init__(self) -> None:
        self.require(self.d_conv >= 1, "d_conv", "at least 1")

    def build(self, d_model: int) -> "GatedConvolution":
        return GatedConvolution(self, d_model)

    def num_parameters(self, d_model: int) -> int:
        return 4 * d_model * (d_model + self.bias) + convolution_parameters(d_model, self.d_conv, self.bias)

    def flops_per_token(self, d_model: int, sequence_length: int) -> float:
        return 2 * d_model * (4 * d_model + self.d_conv)

    def state_bytes(self, d_model: int, sequence_length: int, dtype: torch.dtype = torch.bfloat16) -> int:
        return tail_bytes(d_model, self.d_conv, dtype)


class GatedConvolution(Layer):
    """Built from a ConvConfig."""

    def __init__(self, config: ConvConfig, d_model: int) -> None:
        super().__init__()
        self.in_proj = nn.Linear(d_model, 3 * d_model, bias=config.bias)
        self.conv = ShortConvolution(d_model, config.d_conv, bias=config.bias, activation=None)
        self.out_proj = nn.Linear(d_model, d_model, bias=config.bias)

    def init_state(
        self, batch_size: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> State:
        return {"conv": self.conv.init_tail(batch_size, device=device, dtype=dtype)}

    def forward(self, x_BTD: Tensor, state: State | None = None) -> tuple[Tensor, State | None]:
        before_BTD, after_BTD, x_BTD = self.in_proj(x_BTD).chunk(3, dim=-1)
        return self.out_proj(after_BTD * self.conv(before_BTD * x_BTD, state)), state
