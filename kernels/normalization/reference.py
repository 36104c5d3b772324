"""The norms in fp64, written out: what the faster forms are judged by."""

from __future__ import annotations

from torch import Tensor


def rms_norm_reference(x: Tensor, weight: Tensor | None = None, eps: float = 1e-5) -> Tensor:
    """y = x / sqrt(mean(x²) + eps) ∘ weight (Zhang & Sennrich 2019, eq. 4), in fp64."""
    x = x.double()
    y = x / (x.square().mean(-1, keepdim=True) + eps).sqrt()
    return y if weight is None else y * weight.double()


def gated_rms_norm_reference(
    x: Tensor,
    z: Tensor,
    weight: Tensor | None = None,
    eps: float = 1e-5,
    *,
    norm_before_gate: bool = False,
    group_size: int | None = None,
) -> Tensor:
    """As `gated_rms_norm`, in fp64."""
    x, z = x.double(), z.double()
    gate = z / (1 + (-z).exp())
    x = x if norm_before_gate else x * gate
    y = rms_norm_reference(x.unflatten(-1, (-1, group_size or x.shape[-1])), None, eps).flatten(-2)
    y = y if weight is None else y * weight.double()
    return y * gate if norm_before_gate else y


def l2_norm_reference(x: Tensor, eps: float = 1e-6) -> Tensor:
    """y = x / sqrt(Σ x² + eps), in fp64."""
    x = x.double()
    return x / (x.square().sum(-1, keepdim=True) + eps).sqrt()
