"""The diagonal state space of S4D (Gu et al. 2022): per channel N/2 complex states that decay and turn.

    x_t = exp(Δ A) x_{t-1} + B̄ u_t;   y_t = 2 Re(C x_t) + D u_t

B̄ is part of C, as both only scale (the paper, section 3.2). Training runs it as one convolution by FFT with the kernel
K_l = 2 Re(C B̄ exp(l Δ A)). State: x [B,E,N/2] in complex64.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from ..kernels import long_convolution
from .initialization import log_uniform
from .layer import State

Discretization = Literal["zoh", "bilinear"]
CHUNK = 256
"""Tokens that a prompt is read by where there is a state."""


class DiagonalSSM(nn.Module):
    """One state space per channel, started as S4D-Lin: A_n = -1/2 + iπn."""

    def __init__(
        self, channels: int, d_state: int, *, discretization: Discretization, dt_min: float, dt_max: float
    ) -> None:
        super().__init__()
        M = d_state // 2
        self.discretization: Discretization = discretization
        self.log_dt = nn.Parameter(log_uniform(channels, dt_min, dt_max).log())
        self.log_A_real = nn.Parameter(torch.full((channels, M), math.log(0.5)))
        self.A_imag = nn.Parameter(math.pi * torch.arange(M).float().repeat(channels, 1))
        self.C = nn.Parameter(torch.randn(channels, M, 2) * 0.5**0.5)
        self.D = nn.Parameter(torch.randn(channels))

    def init_modes(self, batch_size: int, *, device: torch.device | str | None) -> Tensor:
        """[B,E,N/2] complex zeros."""
        return torch.zeros(batch_size, *self.A_imag.shape, device=device, dtype=torch.complex64)

    def forward(self, u_BTE: Tensor, state: State | None, key: str = "modes") -> Tensor:
        """y [B,T,E]; ``state[key]`` is read and replaced where there is one."""
        log_decay_EM, C_EM = self._discretized()
        with torch.autocast(u_BTE.device.type, enabled=False):
            u = u_BTE.float()
            y_BTE, modes = diagonal_scan(u, log_decay_EM, C_EM, None if state is None else state[key])
            if state is not None and modes is not None:
                state[key] = modes
            return (y_BTE + u * self.D.float()).to(u_BTE.dtype)

    def _discretized(self) -> tuple[Tensor, Tensor]:
        """(log of the decay per step, C B̄), each [E,M] complex."""
        A_EM = torch.complex(-self.log_A_real.float().exp(), self.A_imag.float())
        dtA_EM = self.log_dt.float().exp()[:, None] * A_EM
        C_EM = torch.view_as_complex(self.C.float().contiguous())
        if self.discretization == "zoh":
            return dtA_EM, C_EM * (dtA_EM.exp() - 1) / A_EM
        return ((1 + dtA_EM / 2) / (1 - dtA_EM / 2)).log(), C_EM * dtA_EM / A_EM / (1 - dtA_EM / 2)


def diagonal_scan(
    u_BTE: Tensor, log_decay_EM: Tensor, C_EM: Tensor, modes_BEM: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """(2 Re(C x_t) for every t [B,T,E], the last x or None if none was given)."""
    T = u_BTE.shape[1]
    if modes_BEM is None:
        return long_convolution(u_BTE, decaying_kernel(log_decay_EM, C_EM, T)), None
    if T == 1:
        modes_BEM = log_decay_EM.exp() * modes_BEM + u_BTE[:, 0, :, None]
        return 2 * (C_EM * modes_BEM).sum(-1).real[:, None], modes_BEM
    powers_EMT = torch.exp(log_decay_EM[..., None] * torch.arange(min(T, CHUNK), device=u_BTE.device))
    kernel_ET = decaying_kernel(log_decay_EM, C_EM, powers_EMT.shape[-1])
    outputs = []
    for u in u_BTE.split(CHUNK, dim=1):
        seen_EMT = powers_EMT[..., : u.shape[1]]
        started_BEM = log_decay_EM.exp() * modes_BEM
        carried = 2 * torch.einsum("bem,emt->bte", C_EM * started_BEM, seen_EMT).real
        outputs.append(long_convolution(u, kernel_ET) + carried)
        modes_BEM = seen_EMT[..., -1] * started_BEM
        modes_BEM = modes_BEM + torch.einsum("bte,emt->bem", u.to(seen_EMT.dtype), seen_EMT.flip(-1))
    return torch.cat(outputs, dim=1), modes_BEM


def decaying_kernel(log_decay_EM: Tensor, C_EM: Tensor, length: int) -> Tensor:
    """[E,length]: 2 Re(Σ_m C_m exp(l log_decay_m)), with l = i + s j for a square of i and j: a product of two tables,
    so that the powers of all modes at all lengths are nowhere written out."""
    s = 1 << (length.bit_length() + 1) // 2
    i, j = torch.arange(s, device=C_EM.device), torch.arange(-(-length // s), device=C_EM.device)
    near_EMI = torch.exp(log_decay_EM[..., None] * i)
    far_EMJ = C_EM[..., None] * torch.exp(log_decay_EM[..., None] * (s * j))
    return 2 * (far_EMJ.mT @ near_EMI).real.flatten(1)[:, :length]


def ssm_parameters(channels: int, d_state: int) -> int:
    """Parameters of a DiagonalSSM: A and C complex for half the states, D and the step."""
    return channels * (2 * d_state + 2)


def ssm_flops(channels: int, d_state: int) -> int:
    """Per token: the product of C with the state. The input enters the state unscaled; the decay is elementwise.

    It is the recurrence's, as decoding runs it. Training takes two transforms of 2T instead (10 log₂ 2T per channel),
    and a kernel that is made once a forward, whatever the batch, and not counted: 4 N T per channel.
    """
    return 2 * channels * d_state


def modes_bytes(channels: int, d_state: int) -> int:
    """Bytes of the state, per sequence."""
    return channels * d_state // 2 * torch.complex64.itemsize
