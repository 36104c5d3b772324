"""Initial values that several papers share, and models without any."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


def log_uniform(size: int, low: float, high: float) -> Tensor:
    """[size] values between low and high, uniform in the logarithm: Mamba's initial steps."""
    return torch.empty(size).uniform_(math.log(low), math.log(high)).exp()


def inverse_softplus(y: Tensor) -> Tensor:
    """x such that log(1 + e^x) = y, for y > 0."""
    return y + torch.log(-torch.expm1(-y))


@contextmanager
def unfilled() -> Iterator[None]:
    """What is built within has no random values but what memory held, for weights that are about to be read: seconds
    and memory less where a model is large."""
    with _NothingDrawn():
        yield


class _NothingDrawn(TorchDispatchMode):
    """Leaves tensors as they are that should be filled with random numbers."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in (torch.ops.aten.normal_.default, torch.ops.aten.uniform_.default):
            return args[0]
        return func(*args, **(kwargs or {}))
