"""Two forms of an operation agree when their outputs and all their gradients do, for random incoming gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .tolerances import assert_close


def outputs_and_gradients(
    operation: Callable[..., Any], tensors: dict[str, Tensor], **options: Any
) -> dict[str, Tensor]:
    """Run `operation(**tensors, **options)` and backpropagate the same random gradient into each of its outputs."""
    leaves = {name: x.detach().clone().requires_grad_() for name, x in tensors.items()}
    outputs = operation(**leaves, **options)
    outputs = [y for y in (outputs if isinstance(outputs, tuple) else (outputs,)) if y is not None]
    generator = torch.Generator().manual_seed(1)
    incoming = [torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y.device, y.dtype) for y in outputs]
    gradients = torch.autograd.grad(outputs, list(leaves.values()), incoming)
    named = {f"output {i}": y for i, y in enumerate(outputs)}
    return named | {f"gradient of {name}": g for name, g in zip(leaves, gradients, strict=True)}


def strided(tensors: dict[str, Tensor]) -> dict[str, Any]:
    """The same numbers as views of wider tensors whose first two axes are swapped in memory: no axis is dense."""
    views = {}
    for name, x in tensors.items():
        wide = torch.full((*x.shape[:-1], 2 * x.shape[-1] + 1), float("nan"), dtype=x.dtype)
        view = wide.transpose(0, 1).contiguous().transpose(0, 1) if x.ndim > 1 else wide
        view[..., 1::2] = x
        views[name] = view[..., 1::2]
    return views


def assert_agree(
    fast: Callable[..., Any],
    reference: Callable[..., Any],
    tensors: dict[str, Tensor],
    dtype: torch.dtype | None = None,
    **options: Any,
) -> None:
    """Hold every output and gradient of `fast` to the reference's, computed from the same numbers in fp64."""
    expected = outputs_and_gradients(reference, {name: x.double() for name, x in tensors.items()}, **options)
    for name, actual in outputs_and_gradients(fast, tensors, **options).items():
        assert_close(actual, expected[name], name, dtype)
