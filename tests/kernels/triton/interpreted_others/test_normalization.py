"""The norms' Triton kernels give what the references give."""

from __future__ import annotations

from functools import partial
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
from hybridlab.kernels.normalization import norms_triton

from ...agreement import outputs_and_gradients
from ...tolerances import relative_error

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 5e-3}
FORMS = {
    "rms": (partial(rms_norm, backend="triton"), rms_norm_reference),
    "l2": (partial(l2_norm, backend="triton"), l2_norm_reference),
    "gated": (partial(gated_rms_norm, backend="triton"), gated_rms_norm_reference),
}


def draw(*names, shape=(2, 5, 12), size=1.0, dtype=torch.float32) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(shape[-2])
    shapes = {"x": shape, "z": shape, "weight": shape[-1:]}
    return {name: (size * torch.randn(*shapes[name], generator=generator)).to(dtype) for name in names}


def assert_agrees(name, tensors, **options):
    form, reference = FORMS[name]
    expected = outputs_and_gradients(reference, {name: x.double() for name, x in tensors.items()}, **options)
    for key, actual in outputs_and_gradients(form, tensors, **options).items():
        assert relative_error(actual, expected[key]) <= TOLERANCE[tensors["x"].dtype], key


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("T", [1, 65, 200])
def test_kernels_equal_reference_in_value_and_gradients(T, dtype):
    assert_agrees("rms", draw("x", "weight", shape=(1, T, 96), dtype=dtype))
    assert_agrees("l2", draw("x", shape=(1, T, 3, 20), dtype=dtype))
    for norm_before_gate in (False, True):
        tensors = draw("x", "z", "weight", shape=(1, T, 96), dtype=dtype)
        assert_agrees("gated", tensors, norm_before_gate=norm_before_gate, group_size=32)


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e4])
def test_large_and_small_numbers_equal_reference(size):
    assert_agrees("rms", draw("x", size=size))
    assert_agrees("l2", draw("x", size=size))


@pytest.mark.parametrize("names", [("x", "z"), ("x", "z", "weight")])
@pytest.mark.parametrize("norm_before_gate", [False, True])
@pytest.mark.parametrize("group_size", [None, 12, 4, 2])
def test_both_orders_of_the_gate_and_groups_equal_reference(names, norm_before_gate, group_size):
    assert_agrees("gated", draw(*names), norm_before_gate=norm_before_gate, group_size=group_size)


def test_a_program_that_does_many_rows_equals_reference(monkeypatch):
    monkeypatch.setattr(norms_triton, "SUMMING_PROGRAMS", 3)
    monkeypatch.setattr(norms_triton, "SUMMING_TILE", 32)
    norms_triton.tiling.cache_clear()
    assert_agrees("gated", draw("x", "z", "weight", shape=(1, 50, 12)), group_size=6)
    norms_triton.tiling.cache_clear()


def test_heads_of_a_joint_projection_are_not_copied():
    wide = torch.randn(2, 7, 3, 40)
    rows, *strides = norms_triton._rows(wide[..., :2, :20], 2, 20)
    assert rows is not None
    assert strides == [120, 40]
    assert rows.data_ptr() == wide.data_ptr()
    weight = torch.randn(20)
    form, reference = FORMS["rms"]
    expected = outputs_and_gradients(lambda wide, weight: reference(wide[..., :2, :20], weight),
                                     {"wide": wide.double(), "weight": weight.double()})  # fmt: skip
    actual = outputs_and_gradients(lambda wide, weight: form(wide[..., :2, :20], weight),
                                   {"wide": wide, "weight": weight})  # fmt: skip
    for name in expected:
        assert relative_error(actual[name], expected[name]) <= 1e-5, name


def test_a_zero_vector_stays_zero_with_finite_gradient():
    x = torch.zeros(2, 4, requires_grad=True)
    y = rms_norm(x, backend="triton")
    y.sum().backward()
    assert not y.any()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_what_the_kernels_do_not_hold_is_computed_by_the_pytorch_form():
    x = torch.randn(3, 8, dtype=torch.float64)
    assert torch.equal(rms_norm(x, backend="triton"), rms_norm(x, backend="torch"))


def test_the_operator_keeps_the_rules_of_torch_library():
    x, z, weight = (t.requires_grad_() for t in draw("x", "z", "weight").values())
    checks = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_static")
    torch.library.opcheck(norms_triton.norm.registered, (x, z, weight, 1e-5, 12, "before", True), test_utils=checks)
    torch.library.opcheck(norms_triton.norm.registered, (x, None, None, 1e-6, 12, "none", False), test_utils=checks)


def test_compiled_and_checkpointed_gradients_are_the_same():
    tensors, form = draw("x", "z", "weight"), FORMS["gated"][0]
    expected = outputs_and_gradients(form, tensors)
    compiled = torch.compile(form, backend="aot_eager", fullgraph=True)
    checkpointed = partial(torch.utils.checkpoint.checkpoint, form, use_reentrant=False)
    for wrapped in (compiled, checkpointed):
        for name, actual in outputs_and_gradients(wrapped, tensors).items():
            assert torch.equal(actual, expected[name]), name
