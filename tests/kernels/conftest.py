"""Fresh buffers hold NaN in the kernels' tests: a result that reads what nobody wrote is then never right by luck."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor


def _poisoned(create: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def create_poisoned(*args, **kwargs) -> Tensor:
        fresh = create(*args, **kwargs)
        return fresh.fill_(float("nan")) if fresh.is_floating_point() else fresh

    return create_poisoned


@pytest.fixture(autouse=True)
def _empty_tensors_hold_nan(monkeypatch):
    for owner, name in ((torch, "empty"), (torch, "empty_like"), (torch.Tensor, "new_empty")):
        monkeypatch.setattr(owner, name, _poisoned(getattr(owner, name)))
