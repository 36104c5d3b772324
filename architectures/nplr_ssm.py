"""The state space of S4 (Gu et al. 2021, "Efficiently Modeling Long Sequences with Structured State Spaces"): per
channel a diagonal matrix less one of rank one, A = Λ - P P*, started as HiPPO-LegS (their theorem 1, appendix C.1).

    x' = A x + B u;   y = C x + D u                                                              in continuous time
    x_t = Ā x_{t-1} + B̄ u_t;   y_t = C x_t + D u_t                                              with steps of length Δ

One P serves both factors, which keeps A stable (Goel et al. 2022, section 4.2). The N modes are N/2 and their
conjugates: only the first are kept, and products such as C x are 2 Re(C x) over them.

The bilinear rule gives an Ā that is diagonal less rank one again (Woodbury), and the kernel C Ā^l B̄ from its generating
function by a Cauchy product (section 3.2 there). Zero-order hold, Ā = exp(ΔA), has no such form: Ā is dense.

State: x [B,E,N] in fp32, real parts before imaginary ones.
"""

import math

import torch
from torch import Tensor, nn

from ..kernels import long_convolution
from .diagonal_ssm import CHUNK, Discretization
from .initialization import log_uniform
from .kept import Kept
from .layer import State

Discrete = tuple[Tensor, Tensor, Tensor, Tensor]
"""Bilinear: diagonal a, and p, q of the rank-one part, and b, all [E,N/2] complex: x ← a x - p 2Re(q x) + b u."""
Dense = tuple[Tensor, Tensor]
"""Ā [E,N,N] and B̄ [E,N], real, over states as they are stored."""


class NPLRStateSpace(nn.Module):
    """One state space per channel."""

    def __init__(
        self, channels: int, d_state: int, *, discretization: Discretization, dt_min: float, dt_max: float
    ) -> None:
        super().__init__()
        self.discretization: Discretization = discretization
        eigenvalues, P, B = hippo_legs(d_state)
        M = d_state // 2
        self.log_dt = nn.Parameter(log_uniform(channels, dt_min, dt_max).log())
        self.log_A_real = nn.Parameter((-eigenvalues.real).log().repeat(channels, 1))
        self.A_imag = nn.Parameter(eigenvalues.imag.repeat(channels, 1))
        self.P = nn.Parameter(torch.view_as_real(P).repeat(channels, 1, 1))
        self.B = nn.Parameter(torch.view_as_real(B).repeat(channels, 1, 1))
        self.C = nn.Parameter(torch.randn(channels, M, 2) * 0.5**0.5)
        self.D = nn.Parameter(torch.randn(channels))
        self._kept = Kept()

    def init_state(self, batch_size: int, *, device: torch.device | str | None) -> Tensor:
        """[B,E,N] zeros in fp32."""
        E, M = self.A_imag.shape
        return torch.zeros(batch_size, E, 2 * M, device=device, dtype=torch.float32)

    def forward(self, u_BTE: Tensor, state: State | None, key: str = "recurrent") -> Tensor:
        """y [B,T,E]; ``state[key]`` is read and replaced where there is one."""
        with torch.autocast(u_BTE.device.type, enabled=False):
            u, (C, D) = u_BTE.to(_wide(self.D.dtype)), (_complex(self.C), _real(self.D))
            if state is None and self.discretization == "bilinear":
                y = convolve(u, _real(self.log_dt).exp(), self.eigenvalues(), _complex(self.P), _complex(self.B), C)
            else:
                x = None if state is None else state[key].to(u.dtype)
                y, x = scan(u, self._kept.of(self, self._discretized), C, x)
                if state is not None:
                    state[key] = x.to(state[key].dtype)
            return (y + u * D).to(u_BTE.dtype)

    def eigenvalues(self) -> Tensor:
        """Λ, [E,N/2] complex."""
        return torch.complex(-_real(self.log_A_real).exp(), _real(self.A_imag))

    def _discretized(self) -> Discrete | Dense:
        dt_E, P, B = _real(self.log_dt).exp(), _complex(self.P), _complex(self.B)
        if self.discretization == "bilinear":
            return bilinear(dt_E, self.eigenvalues(), P, B)
        return zero_order_hold(dt_E, self.eigenvalues(), P, B)


def hippo_legs(d_state: int) -> tuple[Tensor, Tensor, Tensor]:
    """(Λ, P, B), each [N/2] complex64: HiPPO-LegS as a normal matrix less rank one, in the normal matrix's basis.

    A_nk = -√(2n+1) √(2k+1) below the diagonal, -(n+1) on it; B_n = √(2n+1); A + P Pᵀ is normal with P_n = √(n+1/2).
    """
    n = torch.arange(d_state, dtype=torch.float64)
    root = (2 * n + 1).sqrt()
    A = -torch.tril(root[:, None] * root, -1) - torch.diag(n + 1)
    P = (n + 0.5).sqrt()
    skew = A + P[:, None] * P + 0.5 * torch.eye(d_state, dtype=torch.float64)
    frequencies, basis = torch.linalg.eigh(-1j * skew)
    basis, frequencies = basis[:, d_state // 2 :], frequencies[d_state // 2 :]  # ascending: the positive ones
    P, B = (basis.mH @ vector.to(basis.dtype) for vector in (P, root))
    eigenvalues = torch.complex(torch.full_like(frequencies, -0.5), frequencies)
    return eigenvalues.to(torch.complex64), P.to(torch.complex64), B.to(torch.complex64)


def bilinear(dt_E: Tensor, eigenvalues_EM: Tensor, P_EM: Tensor, B_EM: Tensor) -> Discrete:
    """Ā = (1 - ΔA/2)⁻¹ (1 + ΔA/2) = 2 (1 - ΔA/2)⁻¹ - 1 and B̄ = Δ (1 - ΔA/2)⁻¹ B."""
    half_E1 = dt_E[:, None] / 2
    R_EM = 1 / (1 - half_E1 * eigenvalues_EM)
    PR_EM, RP_EM = P_EM.conj() * R_EM, R_EM * P_EM
    weight_E1 = half_E1 / (1 + half_E1 * 2 * (PR_EM * P_EM).sum(-1, keepdim=True).real)
    b_EM = R_EM * B_EM - weight_E1 * RP_EM * 2 * (PR_EM * B_EM).sum(-1, keepdim=True).real
    return 2 * R_EM - 1, 2 * weight_E1 * RP_EM, PR_EM, 2 * half_E1 * b_EM


def zero_order_hold(dt_E: Tensor, eigenvalues_EM: Tensor, P_EM: Tensor, B_EM: Tensor) -> Dense:
    """Ā = exp(ΔA) and B̄ = ∫ exp(sA) B ds over a step: the first N rows of exp of Δ [[A, B], [0, 0]]."""
    A_ENN = _dense(eigenvalues_EM, P_EM, P_EM.conj())
    both = torch.cat([A_ENN, _stacked(B_EM)[..., None]], dim=-1) * dt_E[:, None, None]
    stepped = torch.linalg.matrix_exp(torch.cat([both, torch.zeros_like(both[:, :1])], dim=1))
    return stepped[:, :-1, :-1], stepped[:, :-1, -1]


def convolve(u_BTE: Tensor, dt_E: Tensor, eigenvalues_EM: Tensor, P_EM: Tensor, B_EM: Tensor, C_EM: Tensor) -> Tensor:
    """The bilinear system from nothing, as one convolution with its kernel."""
    return long_convolution(u_BTE, cauchy_kernel(u_BTE.shape[1], dt_E, eigenvalues_EM, P_EM, B_EM, C_EM))


def cauchy_kernel(
    length: int, dt_E: Tensor, eigenvalues_EM: Tensor, P_EM: Tensor, B_EM: Tensor, C_EM: Tensor
) -> Tensor:
    """K_l = C Ā^l B̄ for l < length, [E,length], from its transform at the L-th roots of unity z, L ≥ length:

    Σ_l K_l z^l = C (1 - Ā^L) (1 - Ā z)⁻¹ B̄ = Δ (S(C̃B) - w S(C̃P) S(P*B) / (1 + w S(P*P))),   w = Δ (1 + z) / 2
    S(v) = Σ_n v_n / (1 - z - w λ_n), over the modes and their conjugates
    """
    L = 1 << max(1, length - 1).bit_length()
    C_EM = C_EM - _row_after(C_EM, bilinear(dt_E, eigenvalues_EM, P_EM, B_EM), L)
    turn = torch.arange(L // 2 + 1, device=dt_E.device, dtype=dt_E.dtype) * (-2 * math.pi / L)
    z_F = torch.polar(torch.ones_like(turn), turn)
    away_F, w_EF = 1 - z_F, dt_E[:, None] * (1 + z_F) / 2
    # A mode and its conjugate are one fraction, v/(a - wλ) + v̄/(a - wλ̄) = (2 Re(v) a - 2 Re(v λ̄) w) / denominator.
    a, w, lam = away_F, w_EF[:, None], eigenvalues_EM[..., None]
    inverse_EMF = 1 / (a * a - 2 * lam.real * a * w + lam.abs().square() * w * w)
    pairs_ERM = torch.stack([C_EM * B_EM, C_EM * P_EM, P_EM.conj() * B_EM, P_EM.conj() * P_EM], dim=1)
    weights_ERM = torch.cat([2 * pairs_ERM.real, 2 * (pairs_ERM * eigenvalues_EM.conj()[:, None]).real], dim=1)
    near_ERF, far_ERF = (weights_ERM.to(inverse_EMF.dtype) @ inverse_EMF).chunk(2, dim=1)
    CB, CP, PB, PP = (near_ERF * away_F - far_ERF * w).unbind(1)
    return torch.fft.irfft(dt_E[:, None] * (CB - w_EF * CP * PB / (1 + w_EF * PP)), n=L)[:, :length]


def scan(u_BTE: Tensor, step: Discrete | Dense, C_EM: Tensor, x_BEN: Tensor | None) -> tuple[Tensor, Tensor]:
    """(C x_t for every t [B,T,E], the last x), from x or from nothing: a token at once, or in chunks."""
    if x_BEN is None:
        x_BEN = u_BTE.new_zeros(u_BTE.shape[0], C_EM.shape[0], 2 * C_EM.shape[1])
    if u_BTE.shape[1] == 1:
        x_BEN = _one_step(u_BTE[:, 0], step, x_BEN)
        return 2 * (C_EM * _unstacked(x_BEN)).sum(-1).real[:, None], x_BEN
    A_ENN, B_EN = step if len(step) == 2 else (_dense(*step[:3]), _stacked(step[3]))
    n = min(CHUNK, u_BTE.shape[1])
    inputs_ENT = _powers_on(A_ENN, B_EN, n)
    rows_ETN = _powers_on(A_ENN.mT, _row(C_EM), n + 1).mT
    kernel_ET = (rows_ETN[:, :n] @ B_EN[..., None])[..., 0]
    outputs = []
    for u in u_BTE.split(n, dim=1):
        t = u.shape[1]
        carried = torch.einsum("ben,etn->bte", x_BEN, rows_ETN[:, 1 : t + 1])
        outputs.append(long_convolution(u, kernel_ET) + carried)
        entered = torch.einsum("bte,ent->ben", u, inputs_ENT[..., :t].flip(-1))
        x_BEN = torch.einsum("emn,ben->bem", torch.linalg.matrix_power(A_ENN, t), x_BEN) + entered
    return torch.cat(outputs, dim=1), x_BEN


def _one_step(u_BE: Tensor, step: Discrete | Dense, x_BEN: Tensor) -> Tensor:
    if len(step) == 2:
        A_ENN, B_EN = step
        return torch.einsum("emn,ben->bem", A_ENN, x_BEN) + B_EN * u_BE[..., None]
    a, p, q, b = step
    x_BEM = _unstacked(x_BEN)
    read_BE1 = 2 * (q * x_BEM).sum(-1, keepdim=True).real
    return _stacked(a * x_BEM - p * read_BE1 + b * u_BE[..., None])


def _row_after(C_EM: Tensor, step: Discrete, steps: int) -> Tensor:
    """C Ā^steps, for a power of two."""
    row_E1N, A_ENN = _row(C_EM)[:, None], _dense(*step[:3])
    for _ in range(steps.bit_length() - 1):
        A_ENN = A_ENN @ A_ENN
    return torch.conj(_unstacked((row_E1N @ A_ENN)[:, 0])) / 2


def _powers_on(A_ENN: Tensor, v_EN: Tensor, n: int) -> Tensor:
    """[E,N,n]: A^l v for l < n, by doubling."""
    columns = v_EN[..., None]
    while columns.shape[-1] < n:
        columns = torch.cat([columns, A_ENN @ columns], dim=-1)
        A_ENN = A_ENN @ A_ENN
    return columns[..., :n]


def _dense(a_EM: Tensor, p_EM: Tensor, q_EM: Tensor) -> Tensor:
    """[E,N,N] real: x ← a x - p 2Re(q x) on stacked states."""
    diagonal = [torch.diag_embed(part) for part in (a_EM.real, a_EM.imag)]
    turning = torch.cat([torch.cat([diagonal[0], -diagonal[1]], -1), torch.cat([diagonal[1], diagonal[0]], -1)], -2)
    return turning - _stacked(p_EM)[..., None] * _row(q_EM)[:, None]


def _row(c_EM: Tensor) -> Tensor:
    """[E,N] real: its product with a stacked state is 2 Re(c x)."""
    return 2 * _stacked(c_EM.conj())


def _stacked(x_EM: Tensor) -> Tensor:
    """[...,N]: real parts, then imaginary ones."""
    return torch.cat([x_EM.real, x_EM.imag], dim=-1)


def _unstacked(x_EN: Tensor) -> Tensor:
    """The complex [...,N/2] of ``_stacked``."""
    return torch.complex(*x_EN.chunk(2, dim=-1))


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _real(parameter: Tensor) -> Tensor:
    return parameter.to(_wide(parameter.dtype))


def _complex(parameter: Tensor) -> Tensor:
    return torch.view_as_complex(_real(parameter).contiguous())


def nplr_parameters(channels: int, d_state: int) -> int:
    """Parameters of an NPLRStateSpace: Λ, P, B and C complex for half the states, D and the step."""
    return channels * (4 * d_state + 2)


def nplr_flops(channels: int, d_state: int, discretization: Discretization) -> int:
    """Per token: B and C with the state, and the rank-one part's two products, or all of Ā where it is dense.

    It is the recurrence's, as decoding runs it. Training by the bilinear rule takes two transforms of 2T instead
    (10 log₂ 2T per channel), and a kernel that is made once a forward, whatever the batch, and not counted: per channel
    2 N³ log₂ T for C Ā^T, and 16 N T for the Cauchy product. By zero-order hold it takes transforms of chunks, and 4 N
    per token and channel for the state between them.
    """
    within = 2 * d_state**2 if discretization == "zoh" else 4 * d_state
    return channels * (4 * d_state + within)


def nplr_state_bytes(channels: int, d_state: int) -> int:
    """Bytes of the state, per sequence."""
    return channels * d_state * torch.float32.itemsize
