"""Which machines the Triton kernels are trusted on."""

from __future__ import annotations

import re
import warnings
from functools import cache

import torch

# Triton 3.4 to 3.7.0 can compile gated kernels to wrong gradients on Hopper (flash-linear-attention issue 640).
_WRONG_ON_HOPPER = ((3, 4, 0), (3, 7, 1))
_OLDEST = (3, 4, 0)  # tensor descriptors made inside a kernel
_OLDEST_CAPABILITY = (8, 0)  # bfloat16 matrix units


def triton_version() -> tuple[int, int, int] | None:
    """The installed Triton's version, or None where there is none."""
    try:
        import triton
    except ImportError:
        return None
    numbers = [int(n) for n in re.findall(r"\d+", triton.__version__)[:3]]
    return (*numbers, 0, 0, 0)[:3]  # pyright: ignore[reportReturnType]


def distrust(version: tuple[int, int, int] | None, capability: tuple[int, int]) -> str | None:
    """Why the kernels must not run with this Triton on a GPU of this compute capability; None if they may."""
    if version is None:
        return "Triton is not installed"
    name = ".".join(map(str, version))
    if version < _OLDEST:
        return f"Triton {name} is too old (3.7.1 is right)"
    if capability < _OLDEST_CAPABILITY:
        return f"a GPU of compute capability {capability[0]}.{capability[1]} has no bfloat16 matrix units"
    if capability[0] == 9 and _WRONG_ON_HOPPER[0] <= version < _WRONG_ON_HOPPER[1]:
        return f"Triton {name} can compute wrong gradients on Hopper (3.7.1 is right)"
    return None


def triton_trusted(device: torch.device) -> bool:
    """Whether the Triton kernels may run on tensors of this GPU; warns once where they may not."""
    return device.type == "cuda" and torch.version.cuda is not None and _gpu_trusted(device.index or 0)


@cache
def _gpu_trusted(index: int) -> bool:
    reason = distrust(triton_version(), torch.cuda.get_device_capability(index))
    if reason is not None:
        warnings.warn(f"{reason}: the slower PyTorch form is used", RuntimeWarning, stacklevel=3)
    return reason is None
