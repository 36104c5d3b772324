"""The norms give what their references give, in value and gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hybridlab.kernels import (
    gated_rms_norm,
    gated_rms_norm_reference,
    l2_norm,
    l2_norm_reference,
    rms_norm,
    rms_norm_reference,
)

from .agreement import assert_agree
from .tolerances import assert_close


def draw(*names, size=1.0, dtype=torch.float32) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"x": (3, 5, 12), "z": (3, 5, 12), "weight": (12,)}
    return {name: (size * torch.randn(*shapes[name], generator=generator)).to(dtype) for name in names}


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e4])
@pytest.mark.parametrize("names", [("x",), ("x", "weight")])
def test_rms_norm_equals_reference(names, size):
    assert_agree(rms_norm, rms_norm_reference, draw(*names, size=size))


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e4])
def test_l2_norm_equals_reference(size):
    assert_agree(l2_norm, l2_norm_reference, draw("x", size=size))


@pytest.mark.parametrize("names", [("x", "z"), ("x", "z", "weight")])
@pytest.mark.parametrize("norm_before_gate", [False, True])
@pytest.mark.parametrize("group_size", [None, 12, 4, 1])
def test_gated_rms_norm_equals_reference(names, norm_before_gate, group_size):
    options = {"norm_before_gate": norm_before_gate, "group_size": group_size}
    assert_agree(gated_rms_norm, gated_rms_norm_reference, draw(*names), **options)


def test_norms_have_the_size_their_names_say():
    x = draw("x")["x"]
    assert_close(rms_norm(x, eps=0.0).square().mean(-1), torch.ones(3, 5), "mean square")
    assert_close(l2_norm(x, eps=0.0).square().sum(-1), torch.ones(3, 5), "square norm")


def test_a_zero_vector_stays_zero_with_finite_gradient():
    for norm in (rms_norm, l2_norm):
        x = torch.zeros(2, 4, requires_grad=True)
        y = norm(x)
        y.sum().backward()
        assert not y.any()
        assert x.grad is not None
        assert x.grad.isfinite().all()


def test_half_precision_inputs_are_computed_in_fp32_and_fp64_in_fp64():
    tensors = draw("x", "z", "weight", size=300.0, dtype=torch.float16)
    y = gated_rms_norm(**tensors)
    assert y.dtype == torch.float16
    assert_close(y, gated_rms_norm_reference(**tensors), "y")
    assert_agree(gated_rms_norm, gated_rms_norm_reference, draw("x", "z", "weight", dtype=torch.float64))


@pytest.mark.parametrize("change, message", [
    ({"z": torch.zeros(3, 5, 11)}, "z has shape"),
    ({"weight": torch.zeros(5)}, "weight has shape"),
    ({"group_size": 5}, "group_size 5 does not divide the width 12"),
    ({"group_size": 0}, "group_size 0"),
])  # fmt: skip
def test_arguments_that_do_not_fit_are_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        gated_rms_norm(**{**draw("x", "z", "weight"), **change})
