"""Hyena's implicit filter (Poli et al. 2023, section 3.3 and appendix D.3): an MLP with sine activations that maps a
position to that tap of all filters, under a window that decays with the position, faster for later channels.

    h_s = MLP(1, cos, sin of s's bands) * exp(-δ s);   y_t = Σ_s h_s * z_{t-s} + D * z_t

Filters are as long as what they are applied to and have no state to sum it up in: decoding keeps every input. Positions
are counted in units of ``max_length``; filters go on beyond it by the same formula.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..kernels import long_convolution
from .gated_convolution import LongConvolution
from .growing_cache import append
from .kept import Kept
from .layer import State

SLOWEST, FASTEST, REACHED = 1.5, 0.3, 1e-2
"""The slowest window falls to 0.01 after 1.5 max_length, the fastest after 0.3."""


class ImplicitFilter(nn.Module):
    """Filters [filters,length] of any length, the newest input's tap first."""

    def __init__(self, filters: int, *, features: int, hidden: int, frequency: float, max_length: int) -> None:
        super().__init__()
        self.filters, self.n_bands, self.max_length = filters, (features - 1) // 2, max_length
        self.first = nn.Linear(features, hidden)
        self.second, self.third = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden)
        self.last = nn.Linear(hidden, filters, bias=False)
        self.frequency = nn.Parameter(torch.full((hidden,), frequency))

    def forward(self, length: int) -> Tensor:
        """h [filters,length], at least in fp32."""
        wide = torch.promote_types(self.frequency.dtype, torch.float32)
        s = torch.arange(length, device=self.frequency.device, dtype=wide)
        bands = torch.linspace(1e-4, self.n_bands - 1, self.n_bands, device=s.device, dtype=wide)
        angle = s[:, None] * bands * (2 * math.pi / self.max_length)
        t = s[:, None] / max(1, self.max_length - 1)
        h = torch.cat([t, angle.cos(), -angle.sin()], dim=-1)
        slowest, fastest = (-math.log(REACHED) / share for share in (SLOWEST, FASTEST))
        decay = torch.linspace(slowest, fastest, self.filters, device=s.device, dtype=wide)
        with torch.autocast(s.device.type, enabled=False):
            for linear in (self.first, self.second, self.third):
                h = torch.sin(self.frequency * F.linear(h, linear.weight.to(wide), linear.bias.to(wide)))
            return (F.linear(h, self.last.weight.to(wide)) * torch.exp(-t * decay)).T


class ImplicitConvolution(LongConvolution):
    """One implicit filter for each channel. State: all inputs so far, [B,S,E]."""

    def __init__(self, filters: ImplicitFilter) -> None:
        super().__init__()
        self.filter = filters
        self.skip = nn.Parameter(torch.randn(filters.filters))
        self._kept = Kept()

    def init_state(
        self, batch_size: int, *, device: torch.device | str | None, dtype: torch.dtype | None = None
    ) -> Tensor:
        return torch.zeros(batch_size, 0, self.filter.filters, device=device, dtype=dtype)

    def forward(self, z_BTE: Tensor, state: State | None, key: str) -> Tensor:
        T = z_BTE.shape[1]
        if state is not None:
            state[key] = append(state[key], z_BTE)
            z_BTE = state[key].to(z_BTE.dtype)
        if state is not None and T == 1:
            return torch.einsum("bse,es->be", z_BTE, self.taps(z_BTE.shape[1]).flip(1).to(z_BTE.dtype))[:, None]
        return long_convolution(z_BTE, self.taps(z_BTE.shape[1]))[:, -T:]

    def taps(self, length: int) -> Tensor:
        """[E,length]: the filters, the skip in their first tap; kept for powers of two where decoding asks for them."""
        made = 1 << (length - 1).bit_length() if not torch.is_grad_enabled() else length
        return self._kept.of(self, lambda: self._with_skip(self.filter(made)), key=made)[:, :length]

    def _with_skip(self, h_ES: Tensor) -> Tensor:
        return torch.cat([h_ES[:, :1] + self.skip[:, None], h_ES[:, 1:]], dim=1)


class HeadedImplicitConvolution(ImplicitConvolution):
    """Multi-head Hyena (Massaroli et al. 2023, "Laughing Hyena Distillery", section 4): one filter for each head, over
    the outer products of its keys and values, which the queries read.

        y_t = Σ_s h_s (q_t k_{t-s}) v_{t-s} + D (q_t k_t) v_t

    State: keys and values so far, [B,S,2E].
    """

    def __init__(self, filters: ImplicitFilter, channels: int) -> None:
        super().__init__(filters)
        self.channels = channels

    def init_state(
        self, batch_size: int, *, device: torch.device | str | None, dtype: torch.dtype | None = None
    ) -> Tensor:
        return torch.zeros(batch_size, 0, 2 * self.channels, device=device, dtype=dtype)

    def heads(self, q_BTE: Tensor, k_BTE: Tensor, v_BTE: Tensor, state: State | None, key: str) -> Tensor:
        """y [B,T,E]; ``state[key]`` is read and replaced where there is one."""
        T, H = q_BTE.shape[1], self.filter.filters
        if state is not None:
            state[key] = append(state[key], torch.cat([k_BTE, v_BTE], dim=-1))
            k_BTE, v_BTE = state[key].to(q_BTE.dtype).chunk(2, dim=-1)
        q_BTHP, k_BSHP, v_BSHP = (m.unflatten(-1, (H, -1)) for m in (q_BTE, k_BTE, v_BTE))
        if state is not None and T == 1:
            taps_SH = self.taps(k_BSHP.shape[1]).flip(1).to(q_BTE.dtype).T
            weights_BSH = torch.einsum("bhp,bshp->bsh", q_BTHP[:, 0], k_BSHP) * taps_SH
            return torch.einsum("bsh,bshp->bhp", weights_BSH, v_BSHP).flatten(1)[:, None]
        P = q_BTHP.shape[-1]
        kv_BSE = (k_BSHP[..., None] @ v_BSHP[..., None, :]).flatten(2)
        mixed_BTE = long_convolution(kv_BSE, self.taps(kv_BSE.shape[1]).repeat_interleave(P * P, 0))[:, -T:]
        return (q_BTHP[..., None, :] @ mixed_BTE.unflatten(-1, (H, P, P))).flatten(2)


def implicit_parameters(filters: int, features: int, hidden: int) -> int:
    """Parameters of an ImplicitFilter and of the skip."""
    return hidden * (features + 1) + 2 * hidden * (hidden + 1) + hidden * filters + hidden + filters


def transform_flops(channels: int, sequence_length: int) -> float:
    """Per token: a real transform of the zero-padded sequence there and back, 5/2 n log₂ n each with n = 2T.

    The filters and their transform, made once a forward whatever the batch, are not counted. A backward pass, which the
    bill takes for two forward ones, is one here: it has one transform there and one back, and keeps the other spectra.
    """
    return channels * 10 * math.log2(2 * sequence_length)
