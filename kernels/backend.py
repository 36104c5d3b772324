"""Which form of an operation runs: the PyTorch form or the Triton kernels.

The only place that decides it: every public operation that takes `backend` asks here.
"""

from __future__ import annotations

from functools import cache
from typing import Literal, get_args

import torch

Backend = Literal["auto", "torch", "triton"]

FIRST_TRUSTED_TRITON = (3, 7, 1)  # earlier releases compute wrong gradients on Hopper (flash-linear-attention #640)
FIRST_TRUSTED_CAPABILITY = (8, 0)  # Ampere: bf16 tensor cores


def resolve_backend(
    backend: Backend, device: torch.device, *, operation: str, has_triton: bool
) -> Literal["torch", "triton"]:
    """Return the form that runs for tensors on `device`.

    "auto" is Triton on a CUDA device that `cuda_is_trusted`, else PyTorch. "triton" is taken at its word on any device
    (on the CPU it needs Triton's interpreter), and refused with ValueError where the operation has no Triton kernels.
    """
    if backend not in get_args(Backend):
        raise ValueError(f"{operation}: backend {backend!r} is not one of {', '.join(get_args(Backend))}")
    if backend == "triton" and not has_triton:
        raise ValueError(f"{operation} has no Triton kernels: use backend='torch' or 'auto'")
    if backend != "auto":
        return backend
    trusted = has_triton and device.type == "cuda" and cuda_is_trusted(device.index or 0)
    return "triton" if trusted else "torch"


@cache
def cuda_is_trusted(device_index: int) -> bool:
    """Whether Triton's kernels are known to be right on this CUDA device with the Triton that is installed."""
    if torch.version.hip is not None:
        return False
    try:
        import triton
    except ImportError:
        return False
    version = tuple(int(part) for part in triton.__version__.split("+")[0].split(".")[:3] if part.isdigit())
    capability = torch.cuda.get_device_capability(device_index)
    return version >= FIRST_TRUSTED_TRITON and capability >= FIRST_TRUSTED_CAPABILITY
