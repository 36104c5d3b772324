"""Mamba (Gu and Dao 2023, algorithm 2): a diagonal state space whose step, input and output depend on the token.

    x, z = W_in u;   x = silu(conv(x));   δ, B, C = W_x x;   Δ = softplus(W_Δ δ + b)
    h_t = exp(Δ_t A) h_{t-1} + Δ_t B_t x_t (per channel);   y_t = C_tᵀ h_t + D x_t;   out = W_out (y * silu(z))

State: h [B,E,N] in fp32 and the last W-1 inputs of the convolution, [B,W-1,E]. Layout of the weights as in mamba-ssm.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..heads import require_divides
from ..initialization import inverse_softplus, log_uniform
from ..layer import Layer, LayerConfig, State, register
from ..parts import RMSNorm, ShortConvolution, convolution_parameters, tail_bytes
from ..state_space import scan


@register
@dataclass(frozen=True, kw_only=True)
class MambaConfig(LayerConfig):
    """Mamba's mixer."""

    name = "mamba"
    role = "mixer"

    d_state: int = 16
    """N: state per channel."""
    expand: float = 2.0
    """Inner width over d_model."""
    n_heads: int = 1
    """Parts of the inner width, each with steps, inputs and outputs B and C of its own (Zamba: 2)."""
    d_conv: int = 4
    """Tokens that the convolution sees."""
    dt_rank: int | None = None
    """Rank of the step's projection; left out: d_model/16, rounded up."""
    dt_min: float = 1e-3
    """Least initial step."""
    dt_max: float = 1e-1
    """Largest initial step."""
    inner_norm: Literal["none", "plain", "learned"] = "none"
    """RMS-normalise δ, B and C: ``plain`` without weights (Falcon Mamba), ``learned`` with weights (Jamba)."""
    norm_eps: float = 1e-5
    """Epsilon of those norms."""
    bias: bool = False
    """A bias of the projection into the layer."""
    conv_bias: bool = True
    """A bias of the convolution."""
    out_bias: bool = False
    """A bias of the projection out of it."""

    def __post_init__(self) -> None:
        self.require(self.d_state >= 1, "d_state", "at least 1")
        self.require(self.d_conv >= 1, "d_conv", "at least 1")
        self.require(self.expand > 0, "expand", "above 0")
        self.require(self.dt_rank is None or self.dt_rank >= 1, "dt_rank", "at least 1")
        self.require(0 < self.dt_min <= self.dt_max, "dt_min", f"above 0 and at most dt_max={self.dt_max}")

    def sizes(self, d_model: int) -> tuple[int, int]:
        """(inner width, rank of the step's projection)."""
        E = max(1, round(self.expand * d_model))
        require_divides(self.name, "n_heads", self.n_heads, "the inner width", E)
        return E, self.dt_rank or math.ceil(d_model / 16)

    def projections(self, d_model: int) -> int:
        """Entries of the four matrices; heads, each projected from itself alone, do not change their number."""
        E, R = self.sizes(d_model)
        return d_model * 2 * E + E * (R + 2 * self.d_state) + R * E + E * d_model

    def build(self, d_model: int) -> "Mamba":
        return Mamba(self, d_model)

    def num_parameters(self, d_model: int) -> int:
        E, R = self.sizes(d_model)
        vectors = E * (self.d_state + 2)  # A, D and the step's bias
        vectors += (self.inner_norm == "learned") * (R + 2 * self.d_state) + self.bias * 2 * E + self.out_bias * d_model
        return self.projections(d_model) + convolution_parameters(E, self.d_conv, self.conv_bias) + vectors

    def flops_per_token(self, d_model: int, sequence_length: int) -> float:
        E, _ = self.sizes(d_model)
        return 2 * self.projections(d_model) + 2 * E * self.d_conv + 4 * E * self.d_state

    def state_bytes(self, d_model: int, sequence_length: int, dtype: torch.dtype = torch.bfloat16) -> int:
        E, _ = self.sizes(d_model)
        return E * self.d_state * torch.float32.itemsize + tail_bytes(E, self.d_conv, dtype)


class Mamba(Layer):
    """Built from a MambaConfig."""

    def __init__(self, config: MambaConfig, d_model: int) -> None:
        super().__init__()
        self.E, self.R = config.sizes(d_model)
        self.N, self.H = config.d_state, config.n_heads
        self.in_proj = nn.Linear(d_model, 2 * self.E, bias=config.bias)
        self.conv = ShortConvolution(self.E, config.d_conv, bias=config.conv_bias)
        self.x_proj = nn.Linear(self.E // self.H, self.H * (self.R + 2 * self.N), bias=False)
        self.dt_proj = nn.Linear(self.R, self.E)
        self.A_log = nn.Parameter(torch.arange(1, self.N + 1).float().log().repeat(self.E, 1))  # S4D-real
        self.D = nn.Parameter(torch.ones(self.E))
        self.out_proj = nn.Linear(self.E, d_model, bias=config.out_bias)
        self.inner_norm, self.norm_eps = config.inner_norm, config.norm_eps
        learned = self.inner_norm == "learned"
        widths = (self.R, self.N, self.N)  # of δ, B and C
        self.inner_norms = nn.ModuleList(RMSNorm(width, eps=config.norm_eps) for width in widths if learned)
        with torch.no_grad():
            nn.init.uniform_(self.dt_proj.weight, -(self.R**-0.5), self.R**-0.5)
            self.dt_proj.bias.copy_(inverse_softplus(log_uniform(self.E, config.dt_min, config.dt_max)))

    def init_state(
        self, batch_size: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> State:
        return {
            "recurrent": torch.zeros(batch_size, self.E, self.N, device=device, dtype=torch.float32),
            "conv": self.conv.init_tail(batch_size, device=device, dtype=dtype),
        }

    def forward(self, x_BTD: Tensor, state: State | None = None) -> tuple[Tensor, State | None]:
        return self.out_proj(self.inner(x_BTD, state)), state

    def inner(self, x_BTD: Tensor, state: State | None) -> Tensor:
        """[B,T,E]: what the projection out of the layer is given; the state is read and replaced."""
        x_BTE, z_BTE = self.in_proj(x_BTD).chunk(2, dim=-1)
        x_BTE = self.conv(x_BTE, state)
        if self.H == 1:
            return self._scan(x_BTE, z_BTE, slice(None), self.x_proj.weight, state)
        P = self.E // self.H
        outputs, states = [], []
        for head, weight in enumerate(self.x_proj.weight.chunk(self.H)):
            part = slice(head * P, (head + 1) * P)
            own = None if state is None else {"recurrent": state["recurrent"][:, part]}  # a view, for the step in place
            outputs.append(self._scan(x_BTE[..., part], z_BTE[..., part], part, weight, own))
            states += [] if own is None else [own["recurrent"]]
        if state is not None and x_BTE.shape[1] > 1:
            state["recurrent"] = torch.cat(states, dim=1)
        return torch.cat(outputs, dim=-1)

    def _scan(self, x_BTE: Tensor, z_BTE: Tensor, part: slice, x_weight: Tensor, state: State | None) -> Tensor:
        """y [B,T,E] of the inner channels ``part``, which ``x_weight`` projects to their step, B and C."""
        dt_BTR, B_BTN, C_BTN = self._normed(*F.linear(x_BTE, x_weight).split([self.R, self.N, self.N], dim=-1))
        return scan(
            x_BTE,
            F.linear(dt_BTR, self.dt_proj.weight[part]),
            -self.A_log[part].float().exp(),
            B_BTN,
            C_BTN,
            D=self.D[part],
            z_BTE=z_BTE,
            dt_bias=self.dt_proj.bias[part],
            dt_softplus=True,
            state=state,
        )

    def _normed(self, *parts: Tensor) -> tuple[Tensor, ...]:
        """δ, B and C, each normalised where the config asks for it."""
        if self.inner_norm == "learned":
            return tuple(norm(part.contiguous()) for norm, part in zip(self.inner_norms, parts, strict=True))
        if self.inner_norm == "plain":
            return tuple(F.rms_norm(part, part.shape[-1:], eps=self.norm_eps) for part in parts)
        return parts
