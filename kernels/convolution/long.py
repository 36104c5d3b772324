"""The long convolution by FFT, for S4, H3 and Hyena: filters as long as the sequence."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..checks import compute_dtype
from .arguments import check_long


def long_convolution(x: Tensor, filters: Tensor, skip: Tensor | None = None) -> Tensor:
    """y_t = Σ_{s≤t} filters[:, t − s] ∘ x_s + skip ∘ x_t, causal, per channel, in O(T log T).

    x: [B, T, D]. filters: [D, L], filters[:, 0] for the newest input; what is longer than T is not used. skip: [D].
    Differentiable, once, in every argument; returns y [B, T, D] in x's dtype. Raises ValueError for what does not fit.
    """
    check_long(x, filters, skip)
    dtype = compute_dtype(x, filters, skip)
    with torch.autocast(x.device.type, enabled=False):
        wide = x.to(dtype)
        y = _Convolution.apply(wide.mT, filters[:, : x.shape[1]].to(dtype)).mT
        if skip is not None:
            y = torch.addcmul(y, skip.to(dtype), wide)
    return y.to(x.dtype)


def transform_size(T: int) -> int:
    """The shortest length that transforms fast, 2^n times 1, 3, 5 or 7, with room for T - 1 zeros behind T inputs:
    they keep the circular convolution from wrapping."""
    power = max(8, 1 << (2 * T - 2).bit_length())
    return next(size for size in (power * eighths // 8 for eighths in (5, 6, 7, 8)) if size >= 2 * T - 1)


class _Convolution(torch.autograd.Function):
    """x [B, D, T], filters [D, L] to [B, D, T].

    Its gradients are convolutions too, by transforms of real numbers; autograd would transform complex ones.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, filters: Tensor) -> Tensor:
        T, size = x.shape[-1], transform_size(x.shape[-1])
        x_spectrum, filter_spectrum = torch.fft.rfft(x, n=size), torch.fft.rfft(filters, n=size)
        ctx.save_for_backward(x_spectrum, filter_spectrum)
        ctx.lengths = T, filters.shape[-1], size
        return torch.fft.irfft(x_spectrum * filter_spectrum, n=size)[..., :T]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x_spectrum, filter_spectrum = ctx.saved_tensors
        T, L, size = ctx.lengths
        spectrum, dx, d_filters = torch.fft.rfft(dy, n=size), None, None
        if ctx.needs_input_grad[0]:
            dx = torch.fft.irfft(spectrum * filter_spectrum.conj(), n=size)[..., :T]
        if ctx.needs_input_grad[1]:
            # In place: a spectrum is as large as four of the inputs in bfloat16.
            conjugate = spectrum.conj_physical_().mul_(x_spectrum).sum(0)
            d_filters = torch.fft.irfft(conjugate.conj(), n=size)[..., :L]
        return dx, d_filters
