"""A convolution over the last W tokens whose taps are parameters, shared by groups of channels.

    y_t = Σ_{s<W} h_s * z_{t-s} + D * z_t;   h_s = taps_s * exp(-a s / (W-1)) where the taps are regularised

a is fixed, from 1 for the first filters to 100 for the last, so that filters see near and far. Wide filters are
applied by FFT.

State: the last W-1 inputs, [B,W-1,E].
"""

import torch
from torch import Tensor, nn

from ..kernels import long_convolution, short_convolution, short_convolution_step
from .gated_convolution import LongConvolution, filters_of, spread
from .layer import State

WIDEST_DIRECT = 16
"""Taps up to which the products are added one by one."""
DECAYS = (0.0, 2.0)
"""Powers of 10 between which the fixed decays lie."""


class ExplicitConvolution(LongConvolution):
    """W taps for each filter; with ``regularized`` taps there is also a skip, started at 0."""

    def __init__(self, channels: int, width: int, *, regularized: bool, channels_per_filter: int) -> None:
        super().__init__()
        self.channels, self.channels_per_filter, self.regularized = channels, channels_per_filter, regularized
        filters = filters_of(channels, channels_per_filter)
        self.taps = nn.Parameter(torch.randn(filters, width) * width**-0.5)
        self.skip = nn.Parameter(torch.zeros(channels)) if regularized else None

    def init_state(
        self, batch_size: int, *, device: torch.device | str | None, dtype: torch.dtype | None = None
    ) -> Tensor:
        return torch.zeros(batch_size, self.taps.shape[1] - 1, self.channels, device=device, dtype=dtype)

    def forward(self, z_BTE: Tensor, state: State | None, key: str) -> Tensor:
        weight_EW = spread(self.filter(), self.channels, self.channels_per_filter)
        if state is None:
            y_BTE = convolve(z_BTE, weight_EW)
        elif z_BTE.shape[1] == 1:
            y_BTE = short_convolution_step(z_BTE[:, 0], weight_EW, state[key])[:, None]
        else:
            seen = torch.cat([state[key].to(z_BTE.dtype), z_BTE], dim=1)
            y_BTE = convolve(seen, weight_EW)[:, state[key].shape[1] :]
            state[key] = seen[:, z_BTE.shape[1] :].to(state[key].dtype)
        return y_BTE if self.skip is None else y_BTE + self.skip * z_BTE

    def filter(self) -> Tensor:
        """[filters,W], the newest input's tap last."""
        if not self.regularized:
            return self.taps
        filters, W = self.taps.shape
        decay_F = torch.logspace(*DECAYS, filters, device=self.taps.device)
        age_W = torch.linspace(1, 0, W, device=self.taps.device)
        return self.taps * torch.exp(-decay_F[:, None] * age_W).to(self.taps.dtype)


def convolve(z_BTE: Tensor, weight_EW: Tensor) -> Tensor:
    """From nothing: shifted products for a few taps, else by FFT."""
    if weight_EW.shape[1] <= WIDEST_DIRECT:
        return short_convolution(z_BTE, weight_EW)[0]
    return long_convolution(z_BTE, weight_EW.flip(1))


def explicit_parameters(channels: int, width: int, regularized: bool, channels_per_filter: int) -> int:
    """Parameters of an ExplicitConvolution."""
    return filters_of(channels, channels_per_filter) * width + regularized * channels
