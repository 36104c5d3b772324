"""The short convolution's Triton kernels give what the reference gives."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from hybridlab.kernels import short_convolution, short_convolution_reference, short_convolution_step
from hybridlab.kernels.convolution import short_triton

from ...agreement import assert_agree, outputs_and_gradients, strided
from ...tolerances import relative_error

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 5e-3}
KERNELS = partial(short_convolution, backend="triton")


def draw(*, B=2, T=65, D=6, W=4, sequences=None, leave_out=(), dtype=torch.float32) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(T)
    shapes = {"x": (B, T, D), "weight": (D, W), "bias": (D,), "initial_state": (sequences or B, W - 1, D)}
    tensors = {name: torch.randn(*shape, generator=generator) for name, shape in shapes.items()}
    return {name: x.to(dtype) for name, x in tensors.items() if name not in leave_out}


def assert_agrees(tensors, **options):
    options = {"output_final_state": True, "activation": "silu", **options}
    wide = {name: x.double() for name, x in tensors.items()}
    expected = outputs_and_gradients(short_convolution_reference, wide, **options)
    for name, actual in outputs_and_gradients(KERNELS, tensors, **options).items():
        assert relative_error(actual, expected[name]) <= TOLERANCE[tensors["x"].dtype], name


@pytest.mark.parametrize("dtype, T", [(torch.float32, T) for T in (1, 63, 64, 65, 200)] + [(torch.bfloat16, 65)])
def test_kernels_equal_reference_in_value_state_and_gradients(T, dtype):
    assert_agrees(draw(T=T, B=2 if T == 65 else 1, dtype=dtype))


@pytest.mark.parametrize("W", [1, 2, 3])
@pytest.mark.parametrize("activation", [None, "silu"])
def test_narrower_filters_equal_reference(W, activation):
    options = {"activation": activation, "output_final_state": W > 1}
    assert_agrees(draw(B=1, T=19, W=W, leave_out=["initial_state"] if W == 1 else []), **options)


@pytest.mark.parametrize("leave_out", [["bias"], ["initial_state"], ["bias", "initial_state"]])
def test_bias_and_initial_state_may_be_left_out(leave_out):
    assert_agrees(draw(B=1, T=19, leave_out=leave_out))


def test_channels_of_several_programs_equal_reference():
    assert_agrees(draw(B=1, T=9, D=2 * short_triton.COLUMNS + 5))


@pytest.mark.parametrize("length", [4, 8, 64])
def test_the_length_of_a_programs_run_changes_nothing(length, monkeypatch):
    monkeypatch.setattr(short_triton, "run_length", lambda *sizes: length)
    assert_agrees(draw(T=33, B=1))


@pytest.mark.parametrize("leave_out", [[], ["initial_state"]])
def test_packed_sequences_equal_reference(leave_out):
    tensors = draw(B=1, T=40, sequences=6, leave_out=leave_out)
    assert_agrees(tensors, cu_seqlens=torch.tensor([0, 1, 1, 3, 20, 21, 40], dtype=torch.int32))


def test_a_view_of_a_joint_projection_is_not_copied():
    wide = torch.randn(2, 33, 20)
    view = wide[..., 5:11]
    assert short_triton._dense(view) is view
    assert_agree(lambda wide, **rest: KERNELS(wide[..., 5:11], **rest),
                 lambda wide, **rest: short_convolution_reference(wide[..., 5:11], **rest),
                 {"wide": wide, "weight": torch.randn(6, 4)})  # fmt: skip


def test_views_without_any_dense_axis_equal_reference():
    tensors = draw(T=20)
    expected = KERNELS(**tensors)[0]
    assert relative_error(KERNELS(**strided(tensors))[0], expected) <= 1e-6


@pytest.mark.parametrize("W", [1, 2, 4])
def test_a_step_equals_the_pytorch_step(W):
    tensors = draw(B=3, T=1, W=W)
    x, weight, bias, state = (tensors[name] for name in ("x", "weight", "bias", "initial_state"))
    states = [state.clone(), state.clone()]
    y, expected = (
        short_convolution_step(x[:, 0], weight, s, bias, "silu", backend=backend)
        for s, backend in zip(states, ("triton", "torch"), strict=True)
    )
    assert relative_error(y, expected) <= 1e-6
    assert torch.equal(*states)


def test_what_the_kernels_do_not_hold_is_computed_by_the_pytorch_form():
    tensors = draw(T=9, W=6)
    assert torch.equal(KERNELS(**tensors)[0], short_convolution(**tensors, backend="torch")[0])


def test_the_operator_keeps_the_rules_of_torch_library():
    x, weight, bias, past = (t.requires_grad_() for t in draw(T=5).values())
    checks = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_static")
    torch.library.opcheck(
        short_triton.convolve.registered, (x, weight, bias, past, None, None, True), test_utils=checks
    )


def test_compiled_and_checkpointed_gradients_are_the_same():
    tensors = draw(T=9)
    expected = outputs_and_gradients(KERNELS, tensors)
    compiled = torch.compile(KERNELS, backend="aot_eager", fullgraph=True)
    checkpointed = partial(torch.utils.checkpoint.checkpoint, KERNELS, use_reentrant=False)
    for wrapped in (compiled, checkpointed):
        for name, actual in outputs_and_gradients(wrapped, tensors).items():
            assert torch.equal(actual, expected[name]), name
