"""One token of the short convolution, for decoding."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..backend import Backend, resolve_backend
from .arguments import Activation, check_short


def short_convolution_step(
    x: Tensor,
    weight: Tensor,
    state: Tensor,
    bias: Tensor | None = None,
    activation: Activation | None = None,
    *,
    backend: Backend = "auto",
) -> Tensor:
    """Return y [B, D] in x's dtype and shift x into `state` [B, W-1, D] in place.

    x: [B, D]. weight: [D, W]. bias: [D]. Raises ValueError for shapes that do not fit.
    """
    if x.ndim != 2:
        raise ValueError(f"x is [B, D], got {list(x.shape)}")
    check_short(x, weight, bias, activation, state, x.shape[0])
    if resolve_backend(backend, x.device, operation="short_convolution_step", has_triton=True) == "triton":
        from .short_triton import short_convolution_step_triton, supported

        if supported(x, weight, bias, state) and state.is_contiguous():
            return short_convolution_step_triton(x, weight, state, bias, activation == "silu")
    window_BWD = torch.cat([state, x.to(state.dtype)[:, None]], dim=1)
    state.copy_(window_BWD[:, 1:])
    y = torch.einsum("bwd,dw->bd", window_BWD, weight.to(state.dtype))
    y = y if bias is None else y + bias.to(state.dtype)
    return (y if activation is None else F.silu(y)).to(x.dtype)
