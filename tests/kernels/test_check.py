"""The self-checks of `hybridlab doctor`: they pass here, and they fail where an operation is wrong."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hybridlab.kernels import OPERATIONS, TOLERANCE

from .tolerances import RELATIVE_ERROR


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_every_operation_passes_its_check(operation):
    assert operation.check("cpu") <= RELATIVE_ERROR[torch.float32]


@pytest.mark.parametrize("operation", [o for o in OPERATIONS if o.narrow], ids=lambda operation: operation.name)
def test_every_operation_passes_its_check_in_bfloat16_and_rounds_there(operation):
    assert 1e-4 < operation.check("cpu", torch.bfloat16) <= TOLERANCE[torch.bfloat16]


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_a_wrong_result_fails_the_check(operation):
    def wrong(**tensors):
        first, *rest = operation.fast(**tensors)
        return first * 1.01, *rest

    assert dataclasses.replace(operation, fast=wrong).check("cpu") > 1e-3


def test_names_are_distinct():
    assert len({operation.name for operation in OPERATIONS}) == len(OPERATIONS)
