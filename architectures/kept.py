"""What a module makes of its parameters alone, made once for their values: decoding asks for it at every token."""

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Value = TypeVar("Value")


class Kept:
    """The last value, for as long as the parameters that it was made of are untouched."""

    def __init__(self) -> None:
        self._seen: Hashable = None
        self._value: Any = None

    def of(self, module: nn.Module, make: Callable[[], Value], key: Hashable = None) -> Value:
        """``make()``, or what it gave last time for this ``key``; always anew where gradients are recorded, and for
        parameters whose changes cannot be told."""
        parameters = list(module.parameters())
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or not all(map(_tells_changes, parameters)):
            return make()
        seen = (key, *((parameter.data_ptr(), parameter._version) for parameter in parameters))
        if self._seen != seen:
            self._seen, self._value = seen, make()
        return self._value


def _tells_changes(parameter: nn.Parameter) -> bool:
    """It has memory of its own, and counts what is written there."""
    return type(parameter.data) is Tensor and not parameter.is_inference()
