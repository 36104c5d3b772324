"""The short convolution: whole sequences, packed sequences and steps give what the reference gives."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from hybridlab.kernels import short_convolution, short_convolution_reference, short_convolution_step
from hypothesis import given, settings
from hypothesis import strategies as st

from .agreement import assert_agree, strided
from .tolerances import assert_close


def draw(*, B=2, T=65, D=6, W=4, sequences=None, leave_out=(), dtype=torch.float32, seed=0) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"x": (B, T, D), "weight": (D, W), "bias": (D,), "initial_state": (sequences or B, W - 1, D)}
    tensors = {name: torch.randn(*shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()}
    return {name: x.to(dtype) for name, x in tensors.items() if name not in leave_out}


def assert_agrees_with_reference(tensors, dtype=None, **options):
    options = {"output_final_state": True, "activation": "silu", **options}
    assert_agree(short_convolution, short_convolution_reference, tensors, dtype, **options)


@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize("T", [1, 2, 63, 64, 65, 200])
def test_fast_form_equals_reference_in_value_state_and_gradients(T, activation):
    assert_agrees_with_reference(draw(T=T), activation=activation)


@settings(max_examples=25, deadline=None)
@given(B=st.integers(1, 3), T=st.integers(1, 12), D=st.integers(1, 9), W=st.integers(1, 6),
       leave_out=st.sets(st.sampled_from(["bias"])), seed=st.integers(0, 99))  # fmt: skip
def test_any_shape_equals_reference(B, T, D, W, leave_out, seed):
    if W == 1:
        leave_out = {*leave_out, "initial_state"}  # a width of one has no past, and an empty tensor no gradient
    # fp64 numbers at fp32's tolerance: a lone output may be a sum that cancels
    tensors = draw(B=B, T=T, D=D, W=W, leave_out=leave_out, dtype=torch.float64, seed=seed)
    assert_agrees_with_reference(tensors, torch.float32, output_final_state=W > 1)


def test_the_newest_input_meets_the_last_weight():
    weight = torch.tensor([[0.0, 0.0, 1.0]])
    y, _ = short_convolution(torch.arange(4.0).view(1, 4, 1), weight)
    assert y.flatten().tolist() == [0, 1, 2, 3]
    y, _ = short_convolution(torch.arange(4.0).view(1, 4, 1), weight.flip(1))
    assert y.flatten().tolist() == [0, 0, 0, 1]


def test_equals_the_depthwise_convolution_of_torch():
    tensors = draw(leave_out=["initial_state"])
    x, weight, bias = tensors.values()
    padded = torch.nn.functional.pad(x.mT, (3, 0))
    expected = torch.nn.functional.conv1d(padded, weight[:, None], bias, groups=6).mT
    assert_close(short_convolution(**tensors)[0], expected, "y")


def test_fp64_inputs_are_computed_in_fp64():
    assert_agrees_with_reference(draw(dtype=torch.float64), torch.float64)


@pytest.mark.parametrize("T", [1, 5])
def test_gradients_are_those_of_finite_differences(T):
    tensors = draw(B=1, T=T, D=2, W=3, dtype=torch.float64)
    names = list(tensors)

    def operation(*values) -> Any:
        return short_convolution(**dict(zip(names, values, strict=True)), activation="silu", output_final_state=True)

    assert torch.autograd.gradcheck(operation, [x.requires_grad_() for x in tensors.values()])


def test_packed_sequences_equal_separate_ones():
    offsets = [0, 1, 1, 3, 20]
    tensors = draw(B=1, T=20, sequences=4)
    cu_seqlens = torch.tensor(offsets, dtype=torch.int32)
    assert_agrees_with_reference(tensors, cu_seqlens=cu_seqlens)
    packed, states = short_convolution(**tensors, output_final_state=True, cu_seqlens=cu_seqlens)
    assert states is not None
    for n, (start, end) in enumerate(pairwise(offsets)):
        past = tensors["initial_state"][n : n + 1]
        if start == end:
            assert torch.equal(states[n : n + 1], past)
            continue
        alone = {**tensors, "x": tensors["x"][:, start:end], "initial_state": past}
        y, state = short_convolution(**alone, output_final_state=True)
        assert_close(packed[:, start:end], y, f"y of sequence {n}")
        assert_close(states[n : n + 1], state, f"state of sequence {n}")


@pytest.mark.parametrize("W", [1, 2, 4])
@pytest.mark.parametrize("activation", [None, "silu"])
def test_steps_equal_reference(W, activation):
    tensors = draw(T=10, W=W)
    expected, final = short_convolution_reference(**tensors, activation=activation, output_final_state=True)
    state = tensors["initial_state"].clone()
    outputs = [
        short_convolution_step(x, tensors["weight"], state, tensors["bias"], activation) for x in tensors["x"].unbind(1)
    ]
    assert_close(torch.stack(outputs, 1), expected, "y")
    assert_close(state, final, "state")


def test_half_precision_inputs_are_computed_in_fp32():
    tensors = draw(dtype=torch.bfloat16)
    y, state = short_convolution(**tensors, output_final_state=True)
    assert state is not None
    assert (y.dtype, state.dtype) == (torch.bfloat16, torch.float32)
    assert_close(y, short_convolution_reference(**tensors)[0], "y")


def test_strided_views_are_taken_as_they_are():
    tensors = draw(T=70)
    expected = short_convolution(**tensors, output_final_state=True)
    for actual, wanted in zip(short_convolution(**strided(tensors), output_final_state=True), expected, strict=True):
        assert_close(actual, wanted, "output")


BAD = {
    "x of two axes": ({"x": torch.zeros(9, 6)}, r"x is \[B, T, D\]"),
    "x of another width": ({"x": torch.zeros(2, 9, 5)}, "x has shape"),
    "a weight of three axes": ({"weight": torch.zeros(6, 1, 4)}, r"weight is \[D, W\]"),
    "a bias of another width": ({"bias": torch.zeros(5)}, "bias has shape"),
    "a state as long as the weight": ({"initial_state": torch.zeros(2, 4, 6)}, "state has shape"),
    "an unknown activation": ({"activation": "gelu"}, "'gelu' is not one of None, silu"),
    "packing several rows": ({"cu_seqlens": torch.tensor([0, 9])}, "B must be 1"),
}


@pytest.mark.parametrize("change, message", BAD.values(), ids=BAD.keys())
def test_arguments_that_do_not_fit_are_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        short_convolution(**{**draw(T=9), **change})
