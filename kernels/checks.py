"""Checks of arguments that the operations share: one line names the argument, what it is and what would be right."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def require_shape(name: str, tensor: Tensor | None, shape: Sequence[int]) -> None:
    """Raise ValueError unless the tensor, where given, has the shape."""
    if tensor is not None and tuple(tensor.shape) != tuple(shape):
        raise ValueError(f"{name} has shape {list(tensor.shape)}: expected {list(shape)}")


def require_floating(**tensors: Tensor | None) -> None:
    """Raise ValueError unless all given tensors are floating point and on one device."""
    given = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    (first, anchor), *_ = given.items()
    for name, tensor in given.items():
        if not tensor.is_floating_point():
            raise ValueError(f"{name} must be floating point, got {tensor.dtype}")
        if tensor.device != anchor.device:
            raise ValueError(f"{name} is on {tensor.device} but {first} is on {anchor.device}")


def compute_dtype(*tensors: Tensor | None) -> torch.dtype:
    """fp64 if any given tensor is fp64, else fp32: the precision in which the PyTorch forms compute."""
    has_double = any(tensor is not None and tensor.dtype == torch.float64 for tensor in tensors)
    return torch.float64 if has_double else torch.float32
