"""The long convolution by FFT, for S4, H3 and Hyena: filters as long as the sequence."""

from __future__ import annotations

import torch
from torch import Tensor

from ..checks import compute_dtype
from .arguments import check_long


def long_convolution(x: Tensor, filters: Tensor, skip: Tensor | None = None) -> Tensor:
    """y_t = Σ_{s≤t} filters[:, t − s] ∘ x_s + skip ∘ x_t, causal, per channel, in O(T log T).

    x: [B, T, D]. filters: [D, L], filters[:, 0] for the newest input; what is longer than T is not used. skip: [D].
    Differentiable in every argument; returns y [B, T, D] in x's dtype. Raises ValueError for what does not fit.
    """
    check_long(x, filters, skip)
    T = x.shape[1]
    dtype = compute_dtype(x, filters, skip)
    with torch.autocast(x.device.type, enabled=False):
        wide = x.to(dtype)
        # Zeros behind the sequence keep the circular convolution from wrapping; powers of two transform fastest.
        size = 1 << (2 * T - 1).bit_length()
        x_spectrum = torch.fft.rfft(wide.mT, n=size)
        filter_spectrum = torch.fft.rfft(filters[:, :T].to(dtype), n=size)
        y = torch.fft.irfft(x_spectrum * filter_spectrum, n=size)[..., :T].mT
        if skip is not None:
            y = torch.addcmul(y, skip.to(dtype), wide)
    return y.to(x.dtype)
