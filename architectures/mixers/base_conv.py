"""BaseConv, a gate around a short convolution, in two published forms:

    based     x, g = W_in u + b;  out = W_out (silu(conv(x)) * g) + b     the released Based (Arora et al. 2024)
    zoology   out = (W u + b) * (conv(u) + b)                             Zoology (Arora et al. 2023), definition 4.1

State: the last W-1 inputs of the convolution, [B,W-1,E].
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ..layer import Layer, LayerConfig, State, register
from ..parts import ShortConvolution, convolution_parameters, tail_bytes


@register
@dataclass(frozen=True, kw_only=True)
class BaseConvConfig(LayerConfig):
    """BaseConv."""

    name = "base_conv"
    role = "mixer"

    form: Literal["based", "zoology"] = "based"
    """based (with projections around the convolution) or zoology (none)."""
    d_conv: int = 3
    """Tokens that the convolution sees."""
    expand: float = 2.0
    """Channels of the convolution over d_model, in the form of Based."""
    bias: bool = True
    """Biases of projections and convolution."""

    def __post_init__(self) -> None:
        self.require(self.d_conv >= 1, "d_conv", "at least 1")
        self.require(self.expand > 0, "expand", "above 0")

    def channels(self, d_model: int) -> int:
        """E: channels of the convolution."""
        return max(1, round(self.expand * d_model)) if self.form == "based" else d_model

    def weights(self, d_model: int) -> int:
        """Entries of the projections and the convolution, without biases."""
        E = self.channels(d_model)
        projections = 3 * E * d_model if self.form == "based" else d_model**2
        return projections + convolution_parameters(E, self.d_conv, False)

    def build(self, d_model: int) -> Layer:
        return (BasedConvolution if self.form == "based" else ZoologyConvolution)(self, d_model)

    def num_parameters(self, d_model: int) -> int:
        biases = 3 * self.channels(d_model) + d_model if self.form == "based" else 2 * d_model
        return self.weights(d_model) + self.bias * biases

    def flops_per_token(self, d_model: int, sequence_length: int) -> float:
        return 2 * self.weights(d_model)

    def state_bytes(self, d_model: int, sequence_length: int, dtype: torch.dtype = torch.bfloat16) -> int:
        return tail_bytes(self.channels(d_model), self.d_conv, dtype)


class ZoologyConvolution(Layer):
    """Built from a BaseConvConfig of Zoology's form."""

    def __init__(self, config: BaseConvConfig, d_model: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(d_model, d_model, bias=config.bias)
        self.conv = ShortConvolution(d_model, config.d_conv, bias=config.bias, activation=None)

    def init_state(
        self, batch_size: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> State:
        return {"conv": self.conv.init_tail(batch_size, device=device, dtype=dtype)}

    def forward(self, x_BTD: Tensor, state: State | None = None) -> tuple[Tensor, State | None]:
        return self.gate_proj(x_BTD) * self.conv(x_BTD, state), state


class BasedConvolution(Layer):
    """Built from a BaseConvConfig of Based's form."""

    def __init__(self, config: BaseConvConfig, d_model: int) -> None:
        super().__init__()
        E = config.channels(d_model)
        self.in_proj = nn.Linear(d_model, 2 * E, bias=config.bias)
        self.conv = ShortConvolution(E, config.d_conv, bias=config.bias)
        self.out_proj = nn.Linear(E, d_model, bias=config.bias)

    def init_state(
        self, batch_size: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> State:
        return {"conv": self.conv.init_tail(batch_size, device=device, dtype=dtype)}

    def forward(self, x_BTD: Tensor, state: State | None = None) -> tuple[Tensor, State | None]:
        seen_BTE, gate_BTE = self.in_proj(x_BTD).chunk(2, dim=-1)
        return self.out_proj(self.conv(seen_BTE, state) * gate_BTE), state
