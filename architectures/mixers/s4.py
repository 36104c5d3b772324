"""S4 (Gu et al. 2021, "Efficiently Modeling Long Sequences with Structured State Spaces"): HiPPO-LegS's state space,
diagonal plus low rank, that does not depend on the token. ``s4d`` is its diagonal successor.

    out = GLU(W_out gelu(ssm(u)) + b)

State: N real numbers per channel, [B,D,N] in fp32.

The bill has the recurrence. What makes the kernel in training, once a forward whatever the batch, is no cost of a token
and not in it (`nplr_flops`): with D = 1024 and T = 2048 it is as much as 0.8 sequences through the layer.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..diagonal_ssm import Discretization
from ..layer import Layer, State, register
from ..nplr_ssm import NPLRStateSpace, nplr_flops, nplr_parameters, nplr_state_bytes
from .s4d import DiagonalConfig


@register
@dataclass(frozen=True, kw_only=True)
class S4Config(DiagonalConfig):
    """S4."""

    name = "s4"

    discretization: Discretization = "bilinear"
    """bilinear (the paper's), or zoh (zero-order hold), whose steps are dense: they cost d_state/4 times as much, and
    training exponentiates a matrix for every channel."""

    def build(self, d_model: int) -> "S4":
        return S4(self, d_model)

    def num_parameters(self, d_model: int) -> int:
        return nplr_parameters(d_model, self.d_state) + 2 * d_model**2 + 2 * d_model

    def flops_per_token(self, d_model: int, sequence_length: int) -> float:
        return nplr_flops(d_model, self.d_state, self.discretization) + 4 * d_model**2

    def state_bytes(self, d_model: int, sequence_length: int, dtype: torch.dtype = torch.bfloat16) -> int:
        return nplr_state_bytes(d_model, self.d_state)


class S4(Layer):
    """Built from an S4Config."""

    def __init__(self, config: S4Config, d_model: int) -> None:
        super().__init__()
        self.ssm = NPLRStateSpace(
            d_model,
            config.d_state,
            discretization=config.discretization,
            dt_min=config.dt_min,
            dt_max=config.dt_max,
        )
        self.out_proj = nn.Linear(d_model, 2 * d_model)

    def init_state(
        self, batch_size: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> State:
        return {"recurrent": self.ssm.init_state(batch_size, device=device)}

    def forward(self, x_BTD: Tensor, state: State | None = None) -> tuple[Tensor, State | None]:
        return F.glu(self.out_proj(F.gelu(self.ssm(x_BTD, state)))), state
