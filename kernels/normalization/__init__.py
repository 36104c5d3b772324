"""Normalisations over the last axis: RMSNorm, the gated RMSNorm of Mamba-2 and its kin, the l2 norm."""

from __future__ import annotations

from .norms import gated_rms_norm, l2_norm, rms_norm
from .reference import gated_rms_norm_reference, l2_norm_reference, rms_norm_reference

__all__ = [
    "gated_rms_norm",
    "gated_rms_norm_reference",
    "l2_norm",
    "l2_norm_reference",
    "rms_norm",
    "rms_norm_reference",
]
