"""The short causal depthwise convolution: which form runs, and the form in PyTorch."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from ..backend import Backend, resolve_backend
from ..checks import compute_dtype
from ..packing import check_cu_seqlens
from .arguments import Activation, check_short


def short_convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activation: Activation | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
    backend: Backend = "auto",
) -> tuple[Tensor, Tensor | None]:
    """Convolve each channel over time, differentiably in every tensor argument.

    x: [B, T, D]. weight: [D, W], its last column for the newest input. bias: [D].
    initial_state: [B, W-1, D], the inputs before the first, zeros when None.
    cu_seqlens: int [N+1] from 0 to T with B = 1: N independent sequences packed in one row, states then [N, W-1, D].
    What the Triton kernels do not hold (fp64, more than four taps) is computed by the PyTorch form.

    Returns y [B, T, D] in x's dtype and, where `output_final_state`, the last W-1 inputs (fp32, fp64 for fp64 inputs),
    else None. Raises ValueError, naming the argument and what would be right, for what does not fit.
    """
    if x.ndim != 3 or 0 in x.shape:
        raise ValueError(f"x is [B, T, D] and not empty, got {list(x.shape)}")
    B, T, D = x.shape
    sequences = B if cu_seqlens is None else check_cu_seqlens(cu_seqlens, B, T)
    check_short(x, weight, bias, activation, initial_state, sequences)
    if resolve_backend(backend, x.device, operation="short_convolution", has_triton=True) == "triton":
        from .short_triton import short_convolution_triton, supported

        if supported(x, weight, bias, initial_state):
            arguments = (x, weight, bias, activation, initial_state, output_final_state, cu_seqlens)
            return short_convolution_triton(*arguments)
    W = weight.shape[1]
    dtype = compute_dtype(x, weight, initial_state)
    with torch.autocast(x.device.type, enabled=False):
        weight = weight.to(dtype)
        wide = x.to(dtype)
        past = wide.new_zeros(sequences, W - 1, D) if initial_state is None else initial_state.to(dtype)
        if cu_seqlens is None:
            padded = torch.cat([past, wide], dim=1)
            y, state = _correlate(padded, weight, bias), padded[:, T:]
        else:
            y, state = _packed(wide, past, weight, bias, cu_seqlens)
        y = y if activation is None else F.silu(y)
    return y.to(x.dtype), state if output_final_state else None


def _correlate(padded: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """[B, T+W-1, D] to [B, T, D]; W shifted multiply-adds cost as little as conv1d, and leave the layout as it is."""
    W = weight.shape[1]
    T = padded.shape[1] - W + 1
    y = padded[:, :T] * weight[:, 0] if bias is None else torch.addcmul(bias.to(weight), padded[:, :T], weight[:, 0])
    for w in range(1, W):
        y = torch.addcmul(y, padded[:, w : w + T], weight[:, w])
    return y


def _packed(x: Tensor, past: Tensor, weight: Tensor, bias: Tensor | None, cu_seqlens: Tensor) -> tuple[Tensor, Tensor]:
    """One row in which each sequence follows its own past; what is computed across a border is left out."""
    offsets = cu_seqlens.tolist()
    W = weight.shape[1]
    row = torch.cat([part for n, (a, b) in enumerate(pairwise(offsets)) for part in (past[n], x[0, a:b])])
    y = _correlate(row[None], weight, bias)[0]
    kept = [y[a + n * (W - 1) : b + n * (W - 1)] for n, (a, b) in enumerate(pairwise(offsets))]
    states = [row[end + n * (W - 1) : end + (n + 1) * (W - 1)] for n, end in enumerate(offsets[1:])]
    return torch.cat(kept)[None], torch.stack(states)
