"""What counts as equal, one table for every operation: the largest relative error of norms against the reference."""

from __future__ import annotations

import torch
from torch import Tensor

RELATIVE_ERROR = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """‖actual − expected‖ / ‖expected‖; NaN counts as infinitely wrong."""
    assert actual.shape == expected.shape, f"shape {list(actual.shape)}, expected {list(expected.shape)}"
    actual, expected = actual.detach().double().cpu(), expected.detach().double().cpu()
    error = (actual - expected).norm().item() / max(expected.norm().item(), 1e-30)
    return error if error == error else float("inf")


def assert_close(actual: Tensor | None, expected: Tensor | None, name: str, dtype: torch.dtype | None = None) -> None:
    """Hold `actual`, which must be there, to the tolerance of `dtype` (its own when None)."""
    assert actual is not None, f"{name} is missing"
    assert expected is not None, f"{name} is not expected"
    dtype = dtype or actual.dtype
    error = relative_error(actual, expected)
    assert error <= RELATIVE_ERROR[dtype], f"{name}: relative error {error:.1e} > {RELATIVE_ERROR[dtype]:.0e} ({dtype})"
