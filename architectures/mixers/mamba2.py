"""Mamba-2 (Dao and Gu 2024, section 7): a linear recurrence whose decay is one number per token and head.

    z, x, B, C, dt = W_in u;   x, B, C = silu(conv(x, B, C));   dt = softplus(dt + b)
    S_t = exp(dt_t A) S_{t-1} + dt_t B_t x_tᵀ;   y_t = C_tᵀ S_t + D x_t;   out = W_out rmsnorm(y * silu(z))

State: S [B,H,N,P] in fp32 and the last W-1 inputs of the convolution, [B,W-1,E+2GN]. Weights are laid out
as in mamba-ssm.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...kernels import gated_rms_norm
from ..heads import require_divides, split_heads
from ..initialization import inverse_softplus, log_uniform
from ..layer import Layer, LayerConfig, State, register
from ..linear_recurrence import recur, recurrence_flops, zero_state, zero_state_bytes
from ..parts import ShortConvolution, convolution_parameters, tail_bytes


@register
@dataclass(frozen=True, kw_only=True)
class Mamba2Config(LayerConfig):
    """Mamba-2's mixer."""

    name = "mamba2"
    role = "mixer"

    d_state: int = 128
    """N: state per channel."""
    expand: float = 2.0
    """Inner width over d_model."""
    n_heads: int | None = None
    """Heads of the inner width; left out: by ``head_dim``."""
    head_dim: int | None = None
    """P: channels that share a decay; left out: the divisor of the inner width nearest to 64."""
    n_groups: int = 1
    """Groups of heads that share B and C; the gated norm is over a group."""
    d_conv: int = 4
    """Tokens that the convolution sees."""
    dt_min: float = 1e-3
    """Least initial step."""
    dt_max: float = 1e-1
    """Largest initial step."""
    dt_low: float = 0.0
    """Steps are at least this (Nemotron-H)."""
    dt_high: float | None = None
    """Steps are at most this; left out: any."""
    out_norm: Literal["gated", "before_gate", "none"] = "gated"
    """rmsnorm(y * silu(z)), or rmsnorm(y) * silu(z), or y * silu(z) (Falcon-H1 has all three)."""
    norm_eps: float = 1e-5
    """Epsilon of that norm."""
    bias: bool = False
    """A bias of the projection into the layer."""
    conv_bias: bool = True
    """A bias of the convolution."""
    out_bias: bool = False
    """A bias of the projection out of it."""

    def __post_init__(self) -> None:
        high = self.dt_high
        self.require(self.dt_low >= 0, "dt_low", "at least 0")
        self.require(high is None or high > self.dt_low, "dt_high", f"above dt_low={self.dt_low}, or left out")
        self.require(self.d_state >= 1, "d_state", "at least 1")
        self.require(self.d_conv >= 1, "d_conv", "at least 1")
        self.require(self.expand > 0, "expand", "above 0")
        self.require(0 < self.dt_min <= self.dt_max, "dt_min", f"above 0 and at most dt_max={self.dt_max}")

    def sizes(self, d_model: int) -> tuple[int, int, int]:
        """(inner width, heads, width of a head)."""
        E = round(self.expand * d_model)
        H, P = split_heads(self.name, E, self.n_heads, self.head_dim)
        require_divides(self.name, "n_groups", self.n_groups, "heads", H)
        return E, H, P

    def convolved(self, d_model: int) -> int:
        """Channels of the convolution: x, B and C."""
        return self.sizes(d_model)[0] + 2 * self.n_groups * self.d_state

    def build(self, d_model: int) -> "Mamba2":
        return Mamba2(self, d_model)

    def num_parameters(self, d_model: int) -> int:
        E, H, _ = self.sizes(d_model)
        convolved = self.convolved(d_model)
        projections = d_model * (E + convolved + H) + E * d_model
        vectors = 3 * H + (self.out_norm != "none") * E  # steps' biases, A, D; the norm
        vectors += self.bias * (E + convolved + H) + self.out_bias * d_model
        return projections + convolution_parameters(convolved, self.d_conv, self.conv_bias) + vectors

    def flops_per_token(self, d_model: int, sequence_length: int) -> float:
        E, H, P = self.sizes(d_model)
        convolved = self.convolved(d_model)
        projections = 2 * d_model * (E + convolved + H) + 2 * E * d_model
        return projections + 2 * convolved * self.d_conv + recurrence_flops(H, self.d_state, P)

    def state_bytes(self, d_model: int, sequence_length: int, dtype: torch.dtype = torch.bfloat16) -> int:
        _, H, P = self.sizes(d_model)
        return zero_state_bytes(H, self.d_state, P) + tail_bytes(self.convolved(d_model), self.d_conv, dtype)


class Mamba2(Layer):
    """Built from a Mamba2Config."""

    def __init__(self, config: Mamba2Config, d_model: int) -> None:
        super().__init__()
        self.E, self.H, self.P = config.sizes(d_model)
        self.N, self.G = config.d_state, config.n_groups
        self.dt_low, self.dt_high = config.dt_low, config.dt_high
        self.out_norm, self.norm_eps = config.out_norm, config.norm_eps
        self.in_proj = nn.Linear(d_model, self.E + config.convolved(d_model) + self.H, bias=config.bias)
        self.conv = ShortConvolution(config.convolved(d_model), config.d_conv, bias=config.conv_bias)
        dt_H = log_uniform(self.H, config.dt_min, config.dt_max)
        self.dt_bias = nn.Parameter(inverse_softplus(dt_H))
        self.A_log = nn.Parameter(torch.empty(self.H).uniform_(1, 16).log())
        self.D = nn.Parameter(torch.ones(self.H))
        self.norm_weight = nn.Parameter(torch.ones(self.E)) if config.out_norm != "none" else None
        self.out_proj = nn.Linear(self.E, d_model, bias=config.out_bias)

    def init_state(
        self, batch_size: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> State:
        return {
            "recurrent": zero_state(batch_size, self.H, self.N, self.P, device),
            "conv": self.conv.init_tail(batch_size, device=device, dtype=dtype),
        }

    def forward(self, x_BTD: Tensor, state: State | None = None) -> tuple[Tensor, State | None]:
        z_BTE, xBC, dt_BTH = self.in_proj(x_BTD).split([self.E, self.conv.weight.shape[0], self.H], dim=-1)
        x_BTE, B_BTGN, C_BTGN = self.conv(xBC, state).split([self.E, self.G * self.N, self.G * self.N], dim=-1)
        B_BTGN, C_BTGN = (m.unflatten(-1, (self.G, self.N)) for m in (B_BTGN, C_BTGN))
        x_BTHP = x_BTE.unflatten(-1, (self.H, self.P))
        dt_BTH = F.softplus(dt_BTH.float() + self.dt_bias)
        if self.dt_low > 0 or self.dt_high is not None:
            dt_BTH = dt_BTH.clamp(self.dt_low, self.dt_high)
        decay_BTH = -dt_BTH * self.A_log.float().exp()
        y_BTHP = recur(
            C_BTGN, B_BTGN, x_BTHP, decay=decay_BTH, scale=1.0, state=state, value_scale_BTH=dt_BTH, skip_H=self.D
        )
        return self.out_proj(self._gate(y_BTHP.flatten(2), z_BTE)), state

    def _gate(self, y_BTE: Tensor, z_BTE: Tensor) -> Tensor:
        if self.norm_weight is None:
            return y_BTE * F.silu(z_BTE)
        return gated_rms_norm(
            y_BTE,
            z_BTE,
            self.norm_weight,
            self.norm_eps,
            norm_before_gate=self.out_norm == "before_gate",
            group_size=self.E // self.G,
        )
