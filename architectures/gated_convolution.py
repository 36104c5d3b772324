"""What the Hyena layers share (Poli et al. 2023, definition 3.1): gates around long convolutions, one filter a channel.

    x_0, ..., x_{n-1}, v = shortconv(W_in u + b);   v ← conv_i(x_i * v) for i = n-1 ... 1;   out = W_out (x_0 * v) + b

n is the order, 2 in all published models. The layers differ in what makes the filters: an MLP (``hyena``), poles and
residues (``hyena_li``), or free taps (``hyena_mr``, ``hyena_se``).

State: the tail of the short convolution, and what each long convolution keeps.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from .heads import require_divides
from .layer import Layer, LayerConfig, State
from .parts import ShortConvolution, convolution_parameters, tail_bytes


class LongConvolution(nn.Module):
    """A causal convolution over all earlier tokens that can continue from its state."""

    def init_state(
        self, batch_size: int, *, device: torch.device | str | None, dtype: torch.dtype | None = None
    ) -> Tensor:
        """What it keeps before the first token."""
        raise NotImplementedError

    def forward(self, z_BTE: Tensor, state: State | None, key: str) -> Tensor:
        """y [B,T,E]; ``state[key]`` is read and replaced where there is one."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class GatedConvolutionConfig(LayerConfig):
    """Options of every Hyena."""

    role = "mixer"
    order: ClassVar[int] = 2

    d_conv: int = 3
    """Tokens that the short convolution of the projections sees."""
    bias: bool = True
    """Biases of the projections and of the short convolution."""
    tied_projections: int = 1
    """The projection makes one in this many channels of the gates and the value, which are then repeated (MAD: 4)."""

    def __post_init__(self) -> None:
        self.require(self.d_conv >= 1, "d_conv", "at least 1")
        self.require(self.tied_projections >= 1, "tied_projections", "at least 1")

    def convolution(self, channels: int) -> LongConvolution:
        """One long convolution."""
        raise NotImplementedError

    def convolution_parameters(self, channels: int) -> int:
        """Its parameters."""
        raise NotImplementedError

    def convolution_flops(self, channels: int, sequence_length: int) -> float:
        """Its FLOPs per token; what makes the filters, once a forward whatever the batch, is not counted."""
        raise NotImplementedError

    def convolution_bytes(self, channels: int, sequence_length: int, dtype: torch.dtype) -> int:
        """What it keeps per sequence."""
        raise NotImplementedError

    def build(self, d_model: int) -> Layer:
        return GatedConvolution(self, d_model)

    def projected(self, d_model: int) -> int:
        """Channels that the projection makes."""
        channels = (self.order + 1) * d_model
        require_divides(self.name, "tied_projections", self.tied_projections, "the channels", channels)
        return channels // self.tied_projections

    def weights(self, d_model: int) -> int:
        """Entries of the projections and the short convolution, without biases."""
        short = convolution_parameters((self.order + 1) * d_model, self.d_conv, False)
        return d_model * (self.projected(d_model) + d_model) + short

    def num_parameters(self, d_model: int) -> int:
        biases = self.bias * (self.projected(d_model) + (self.order + 2) * d_model)
        return self.weights(d_model) + biases + (self.order - 1) * self.convolution_parameters(d_model)

    def flops_per_token(self, d_model: int, sequence_length: int) -> float:
        convolutions = (self.order - 1) * self.convolution_flops(d_model, sequence_length)
        return 2 * self.weights(d_model) + convolutions

    def state_bytes(self, d_model: int, sequence_length: int, dtype: torch.dtype = torch.bfloat16) -> int:
        tail = tail_bytes((self.order + 1) * d_model, self.d_conv, dtype)
        return tail + (self.order - 1) * self.convolution_bytes(d_model, sequence_length, dtype)


class GatedConvolution(Layer):
    """Built from a GatedConvolutionConfig."""

    def __init__(self, config: GatedConvolutionConfig, d_model: int) -> None:
        super().__init__()
        channels = (config.order + 1) * d_model
        self.tied_projections = config.tied_projections
        self.in_proj = nn.Linear(d_model, config.projected(d_model), bias=config.bias)
        self.short = ShortConvolution(channels, config.d_conv, bias=config.bias, activation=None)
        self.long = nn.ModuleList(config.convolution(d_model) for _ in range(config.order - 1))
        self.out_proj = nn.Linear(d_model, d_model, bias=config.bias)

    def init_state(
        self, batch_size: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> State:
        state = {"conv": self.short.init_tail(batch_size, device=device, dtype=dtype)}
        for i, convolution in enumerate(self.long):
            assert isinstance(convolution, LongConvolution)
            state[f"long{i}"] = convolution.init_state(batch_size, device=device, dtype=dtype)
        return state

    def forward(self, x_BTD: Tensor, state: State | None = None) -> tuple[Tensor, State | None]:
        last_gate, *gates, v_BTD = self.projected(x_BTD, state)
        for i, (gate, convolution) in enumerate(zip(gates, self.long, strict=True)):
            v_BTD = convolution(gate * v_BTD, state, f"long{i}")
        return self.out_proj(last_gate * v_BTD), state

    def projected(self, x_BTD: Tensor, state: State | None) -> tuple[Tensor, ...]:
        """Gates and value after the short convolution, each [B,T,D]."""
        channels = self.in_proj(x_BTD)
        channels = channels if self.tied_projections == 1 else channels.repeat(1, 1, self.tied_projections)
        return self.short(channels, state).chunk(len(self.long) + 2, dim=-1)


def filters_of(channels: int, channels_per_filter: int) -> int:
    """How many filters the channels share among them; the last may have fewer channels."""
    return -(-channels // channels_per_filter)


def spread(filters: Tensor, channels: int, channels_per_filter: int) -> Tensor:
    """[channels,...]: every channel's own of [filters,...]."""
    return filters if channels_per_filter == 1 else filters.repeat_interleave(channels_per_filter, 0)[:channels]
