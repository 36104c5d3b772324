"""The long convolution gives what the sum over all earlier inputs gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hybridlab.kernels import long_convolution, long_convolution_reference, short_convolution
from hybridlab.kernels.convolution.long import transform_size

from .agreement import assert_agree, outputs_and_gradients
from .tolerances import assert_close


def draw(*, B=2, T=65, D=5, L=None, dtype=torch.float32) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"x": (B, T, D), "filters": (D, L or T), "skip": (D,)}
    return {name: torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)
            for name, shape in shapes.items()}  # fmt: skip


@pytest.mark.parametrize("T, L", [(1, 1), (63, 63), (64, 64), (65, 65), (200, 200), (50, 7), (50, 80), (3, 1)])
def test_equals_reference_in_value_and_gradients(T, L):
    assert_agree(long_convolution, long_convolution_reference, draw(T=T, L=L))


def test_fp64_inputs_are_computed_in_fp64():
    assert_agree(long_convolution, long_convolution_reference, draw(dtype=torch.float64))


def test_gradients_are_those_of_finite_differences():
    tensors = draw(B=1, T=5, D=2, dtype=torch.float64)
    assert torch.autograd.gradcheck(long_convolution, [x.requires_grad_() for x in tensors.values()])


def test_no_output_depends_on_a_later_input():
    tensors = draw(dtype=torch.float64)
    changed = tensors["x"].clone()
    changed[:, 40:] += 1.0
    before, after = long_convolution(**tensors), long_convolution(**{**tensors, "x": changed})
    assert_close(after[:, :40], before[:, :40], "y before the change")
    assert not torch.allclose(after[:, 40], before[:, 40])


def test_a_short_filter_gives_the_short_convolution_read_backwards():
    tensors = draw(L=4)
    expected, _ = short_convolution(tensors["x"], tensors["filters"].flip(1))
    assert_close(long_convolution(tensors["x"], tensors["filters"]), expected, "y")


def test_half_precision_inputs_are_computed_in_fp32():
    tensors = draw(dtype=torch.bfloat16)
    y = long_convolution(**tensors)
    assert y.dtype == torch.bfloat16
    assert_close(y, long_convolution_reference(**tensors), "y")


def test_transforms_are_long_enough_and_hardly_longer():
    for T in [*range(1, 70), 1000, 1300, 4096, 5000]:
        size = transform_size(T)
        assert 2 * T - 1 <= size <= max(8, 5 * T // 2)
        while size % 2 == 0:
            size //= 2
        assert size in (1, 3, 5, 7)
    assert transform_size(4096) == 8192


@pytest.mark.parametrize("frozen", ["x", "filters", "skip"])
def test_what_needs_no_gradient_gets_none_and_leaves_the_others_alone(frozen):
    tensors = draw(dtype=torch.float64)
    expected = outputs_and_gradients(long_convolution, tensors)
    leaves = {name: x.requires_grad_(name != frozen) for name, x in tensors.items()}
    y = long_convolution(**leaves)
    generator = torch.Generator().manual_seed(1)
    y.backward(torch.randn(y.shape, generator=generator, dtype=torch.float64))
    for name, x in leaves.items():
        if name == frozen:
            assert x.grad is None
        else:
            assert_close(x.grad, expected[f"gradient of {name}"], name)


BAD = {
    "x of two axes": ({"x": torch.zeros(9, 5)}, r"x is \[B, T, D\]"),
    "no token": ({"x": torch.zeros(2, 0, 5)}, "not empty"),
    "transposed filters": ({"filters": torch.zeros(9, 5)}, r"filters has shape \[9, 5\]: expected \[5, L\]"),
    "a skip of another width": ({"skip": torch.zeros(4)}, "skip has shape"),
    "complex filters": ({"filters": torch.zeros(5, 9, dtype=torch.complex64)}, "floating point"),
}


@pytest.mark.parametrize("change, message", BAD.values(), ids=BAD.keys())
def test_arguments_that_do_not_fit_are_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        long_convolution(**{**draw(T=9), **change})
