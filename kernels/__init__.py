"""The recurrences: each folder is one operation, its fp64 reference beside its fast forms.

Every operation computes in fp32 (fp64 for fp64 inputs) whatever its inputs are, returns its output in their dtype and
its states in the precision it computes in. `backend` ("auto", "torch", "triton") chooses between the PyTorch form and
the Triton kernels.
"""

from .backend import assuming_triton
from .check import OPERATIONS, TOLERANCE, Check
from .convolution import (
    long_convolution,
    long_convolution_reference,
    short_convolution,
    short_convolution_reference,
    short_convolution_step,
)
from .delta_rule import delta_rule, delta_rule_reference, delta_rule_step, dplr, dplr_reference, dplr_step
from .flops import flops_of
from .gated_linear_attention import (
    gated_linear_attention,
    gated_linear_attention_reference,
    gated_linear_attention_step,
)
from .loss import UNLABELLED, liger_chunk, linear_cross_entropy, linear_cross_entropy_reference
from .normalization import (
    gated_rms_norm,
    gated_rms_norm_reference,
    l2_norm,
    l2_norm_reference,
    rms_norm,
    rms_norm_reference,
)
from .selective_scan import selective_scan, selective_scan_reference, selective_scan_step

__all__ = [
    "OPERATIONS",
    "TOLERANCE",
    "UNLABELLED",
    "Check",
    "assuming_triton",
    "delta_rule",
    "delta_rule_reference",
    "delta_rule_step",
    "dplr",
    "dplr_reference",
    "dplr_step",
    "flops_of",
    "gated_linear_attention",
    "gated_linear_attention_reference",
    "gated_linear_attention_step",
    "gated_rms_norm",
    "gated_rms_norm_reference",
    "l2_norm",
    "l2_norm_reference",
    "liger_chunk",
    "linear_cross_entropy",
    "linear_cross_entropy_reference",
    "long_convolution",
    "long_convolution_reference",
    "rms_norm",
    "rms_norm_reference",
    "selective_scan",
    "selective_scan_reference",
    "selective_scan_step",
    "short_convolution",
    "short_convolution_reference",
    "short_convolution_step",
]
