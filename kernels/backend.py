"""Which form of an operation runs: the PyTorch form or the Triton kernels.

The only place that decides it: every public operation that takes `backend` asks here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal, get_args

import torch

from .hardware import triton_trusted

Backend = Literal["auto", "torch", "triton"]
_ASSUMED: ContextVar[bool] = ContextVar("assumed", default=False)


@contextmanager
def assuming_triton() -> Iterator[None]:
    """Within it "auto" is what a trusted GPU would run, whatever this machine has: for tensors without memory, whose
    operators are only watched."""
    token = _ASSUMED.set(True)
    try:
        yield
    finally:
        _ASSUMED.reset(token)


def resolve_backend(
    backend: Backend, device: torch.device, *, operation: str, has_triton: bool
) -> Literal["torch", "triton"]:
    """Return the form that runs for tensors on `device`.

    "auto" is Triton on a CUDA device that `triton_trusted`, else PyTorch. "triton" is taken at its word on any device
    (on the CPU it needs Triton's interpreter), and refused with ValueError where the operation has no Triton kernels.
    """
    if backend not in get_args(Backend):
        raise ValueError(f"{operation}: backend {backend!r} is not one of {', '.join(get_args(Backend))}")
    if backend == "triton" and not has_triton:
        raise ValueError(f"{operation} has no Triton kernels: use backend='torch' or 'auto'")
    if backend != "auto":
        return backend
    trusted = has_triton and (_ASSUMED.get() or (device.type == "cuda" and triton_trusted(device)))
    return "triton" if trusted else "torch"
