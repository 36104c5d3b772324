"""The norms: computed in fp32 (fp64 for fp64 inputs), returned in the input's dtype.

What the Triton kernels do not hold (fp64, nothing at all, groups wider than 4096) is computed by the PyTorch form.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ..backend import Backend, resolve_backend
from ..checks import compute_dtype, require_shape


def rms_norm(x: Tensor, weight: Tensor | None = None, eps: float = 1e-5, *, backend: Backend = "auto") -> Tensor:
    """y = x / sqrt(mean(x²) + eps) ∘ weight over the last axis (Zhang & Sennrich 2019, eq. 4).

    x: [..., D]. weight: [D], ones when None. Raises ValueError where weight does not fit.
    """
    require_shape("weight", weight, x.shape[-1:])
    if resolve_backend(backend, x.device, operation="rms_norm", has_triton=True) == "triton":
        from .norms_triton import norm_triton, supported

        if supported(x.shape[-1], x, weight):
            return norm_triton(x, None, weight, eps, x.shape[-1], "none", mean=True)
    dtype = compute_dtype(x, weight)
    y = F.rms_norm(x.to(dtype), x.shape[-1:], None if weight is None else weight.to(dtype), eps)
    return y.to(x.dtype)


def gated_rms_norm(
    x: Tensor,
    z: Tensor,
    weight: Tensor | None = None,
    eps: float = 1e-5,
    *,
    norm_before_gate: bool = False,
    group_size: int | None = None,
    backend: Backend = "auto",
) -> Tensor:
    """rms_norm(x ∘ silu(z)) ∘ weight (Mamba-2), or rms_norm(x) ∘ weight ∘ silu(z) with `norm_before_gate`.

    x, z: [..., D]. weight: [D]. With `group_size` the mean of squares is taken over groups of that many neighbours.
    Raises ValueError where z, weight or group_size do not fit.
    """
    D = x.shape[-1]
    require_shape("z", z, x.shape)
    require_shape("weight", weight, (D,))
    size = D if group_size is None else group_size
    if size < 1 or D % size:
        raise ValueError(f"group_size {group_size} does not divide the width {D}")
    if resolve_backend(backend, x.device, operation="gated_rms_norm", has_triton=True) == "triton":
        from .norms_triton import norm_triton, supported

        if supported(size, x, z, weight):
            return norm_triton(x, z, weight, eps, size, "after" if norm_before_gate else "before", mean=True)
    dtype = compute_dtype(x, z, weight)
    gate = F.silu(z.to(dtype))
    y = x.to(dtype) if norm_before_gate else x.to(dtype) * gate
    scales = None if weight is None else weight.to(dtype)
    if size == D:
        y = F.rms_norm(y, (D,), scales, eps)
    else:
        y = F.rms_norm(y.unflatten(-1, (-1, size)), (size,), None, eps).flatten(-2)
        y = y if scales is None else y * scales
    return (y * gate if norm_before_gate else y).to(x.dtype)


def l2_norm(x: Tensor, eps: float = 1e-6, *, backend: Backend = "auto") -> Tensor:
    """y = x / sqrt(Σ x² + eps) over the last axis."""
    if resolve_backend(backend, x.device, operation="l2_norm", has_triton=True) == "triton":
        from .norms_triton import norm_triton, supported

        if supported(x.shape[-1], x):
            return norm_triton(x, None, None, eps, x.shape[-1], "none", mean=False)
    wide = x.to(compute_dtype(x))
    return (wide * (wide.square().sum(-1, keepdim=True) + eps).rsqrt()).to(x.dtype)
