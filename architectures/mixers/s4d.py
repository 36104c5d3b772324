"""S4D (Gu et al. 2022, "On the Parameterization and Initialization of Diagonal State Space Models"): a state space
that does not depend on the token.

    out = GLU(W_out gelu(ssm(u)) + b)

State: N/2 complex numbers per channel, [B,D,N/2] in complex64.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..diagonal_ssm import DiagonalSSM, Discretization, modes_bytes, ssm_flops, ssm_parameters
from ..layer import Layer, LayerConfig, State, register


@dataclass(frozen=True, kw_only=True)
class DiagonalConfig(LayerConfig):
    """Options of layers on a diagonal state space."""

    role = "mixer"

    d_state: int = 64
    """N: real numbers of state per channel; even."""
    discretization: Discretization = "zoh"
    """zoh (zero-order hold) or bilinear."""
    dt_min: float = 1e-3
    """Least initial step."""
    dt_max: float = 1e-1
    """Largest initial step."""

    def __post_init__(self) -> None:
        self.require(self.d_state >= 2 and self.d_state % 2 == 0, "d_state", "even, from 2")
        self.require(0 < self.dt_min <= self.dt_max, "dt_min", f"above 0 and at most dt_max={self.dt_max}")

    def state_space(self, channels: int) -> DiagonalSSM:
        """The built state space."""
        return DiagonalSSM(
            channels, self.d_state, discretization=self.discretization, dt_min=self.dt_min, dt_max=self.dt_max
        )


@register
@dataclass(frozen=True, kw_only=True)
class S4DConfig(DiagonalConfig):
    """S4D."""

    name = "s4d"

    def build(self, d_model: int) -> "S4D":
        return S4D(self, d_model)

    def num_parameters(self, d_model: int) -> int:
        return ssm_parameters(d_model, self.d_state) + 2 * d_model**2 + 2 * d_model

    def flops_per_token(self, d_model: int, sequence_length: int) -> float:
        return ssm_flops(d_model, self.d_state) + 4 * d_model**2

    def state_bytes(self, d_model: int, sequence_length: int, dtype: torch.dtype = torch.bfloat16) -> int:
        return modes_bytes(d_model, self.d_state)


class S4D(Layer):
    """Built from an S4DConfig."""

    def __init__(self, config: S4DConfig, d_model: int) -> None:
        super().__init__()
        self.ssm = config.state_space(d_model)
        self.out_proj = nn.Linear(d_model, 2 * d_model)

    def init_state(
        self, batch_size: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> State:
        return {"modes": self.ssm.init_modes(batch_size, device=device)}

    def forward(self, x_BTD: Tensor, state: State | None = None) -> tuple[Tensor, State | None]:
        return F.glu(self.out_proj(F.gelu(self.ssm(x_BTD, state)))), state
