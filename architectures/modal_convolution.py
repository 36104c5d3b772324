"""A long filter as a sum of decaying exponentials, poles and residues: it has a recurrence of constant size.

    h_s = Re Σ_n R_n λ_n^s;   x_t = λ x_{t-1} + z_t;   y_t = Re Σ_n R_n x_t + D z_t

Poles lie within the unit circle: log λ = -exp(.) + i(.), the latter for complex ones.

State: x [B,E,N], fp32, or complex64 where the poles are complex.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from .diagonal_ssm import diagonal_scan
from .gated_convolution import LongConvolution, filters_of, spread
from .initialization import log_uniform
from .layer import State

Poles = Literal["real", "complex"]
REAL_RATES = (0.01 / math.e, 0.1 / math.e)
STEPS = (1e-3, 1e-1)
RESIDUE = 0.1


class ModalConvolution(LongConvolution):
    """N poles for each filter.

    Real ones start between ``REAL_RATES``, as in StripedHyena 2's trainer; complex ones as S4D-Lin's, -1/2 + iπn times
    a step between ``STEPS``.
    """

    def __init__(self, channels: int, d_state: int, *, poles: Poles, channels_per_filter: int) -> None:
        super().__init__()
        self.channels, self.channels_per_filter = channels, channels_per_filter
        filters = filters_of(channels, channels_per_filter)
        residue = RESIDUE * d_state**-0.5
        if poles == "real":
            self.log_rate = nn.Parameter(torch.empty(filters, d_state).uniform_(*REAL_RATES).log())
            self.angle = None
            self.residue = nn.Parameter(torch.randn(filters, d_state) * residue)
        else:
            step_F1 = log_uniform(filters, *STEPS)[:, None]
            self.log_rate = nn.Parameter((step_F1 / 2).log().repeat(1, d_state))
            self.angle = nn.Parameter(step_F1 * math.pi * torch.arange(d_state))
            self.residue = nn.Parameter(torch.randn(filters, d_state, 2) * residue)
        self.skip = nn.Parameter(torch.zeros(channels))

    def init_state(
        self, batch_size: int, *, device: torch.device | str | None, dtype: torch.dtype | None = None
    ) -> Tensor:
        kind = torch.float32 if self.angle is None else torch.complex64
        return torch.zeros(batch_size, self.channels, self.log_rate.shape[1], device=device, dtype=kind)

    def forward(self, z_BTE: Tensor, state: State | None, key: str) -> Tensor:
        with torch.autocast(z_BTE.device.type, enabled=False):
            z = z_BTE.float()
            log_pole_EN, residue_EN = (spread(m, self.channels, self.channels_per_filter) for m in self.system())
            y, x_BEN = diagonal_scan(z, log_pole_EN, residue_EN / 2, None if state is None else state[key])
            if state is not None and x_BEN is not None:
                state[key] = x_BEN
            return (y + z * self.skip.float()).to(z_BTE.dtype)

    def system(self) -> tuple[Tensor, Tensor]:
        """(log λ, R), each [filters,N]."""
        rate, residue = self.log_rate.float().exp(), self.residue.float()
        if self.angle is None:
            return -rate, residue
        return torch.complex(-rate, self.angle.float()), torch.view_as_complex(residue.contiguous())


def modal_parameters(channels: int, d_state: int, poles: Poles, channels_per_filter: int) -> int:
    """Parameters of a ModalConvolution."""
    return filters_of(channels, channels_per_filter) * d_state * (2 if poles == "real" else 4) + channels


def modal_flops(channels: int, d_state: int, poles: Poles) -> int:
    """Per token: the residues with the state; the decay is elementwise.

    It is the recurrence's, as decoding runs it. Training takes two transforms of 2T instead (10 log₂ 2T per channel),
    and a filter that is made once a forward, whatever the batch, and not counted: 2 N T per channel, 8 N T where poles
    are complex.
    """
    return channels * d_state * (2 if poles == "real" else 4)


def modal_bytes(channels: int, d_state: int, poles: Poles) -> int:
    """Bytes of the state, per sequence."""
    return channels * d_state * (torch.float32 if poles == "real" else torch.complex64).itemsize
