"""The selective scan's Triton kernels give what the reference gives."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from hybridlab.kernels import selective_scan, selective_scan_reference, selective_scan_step
from hybridlab.kernels.selective_scan import scan_triton, step_triton

from ...agreement import outputs_and_gradients, strided
from ...tolerances import relative_error

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 5e-3}
KERNELS = partial(selective_scan, backend="triton")


def draw(*, B=1, T=65, D=6, N=4, strength=1.0, leave_out=(), dtype=torch.float32) -> dict[str, Any]:
    """Random arguments as models have them: A is −strength·exp(normal), time steps around 0.05."""
    generator = torch.Generator().manual_seed(T)
    shapes = {"u": (B, T, D), "dt": (B, T, D), "A": (D, N), "B": (B, T, N), "C": (B, T, N), "D": (D,), "z": (B, T, D)}
    shapes |= {"dt_bias": (D,), "initial_state": (B, D, N)}
    tensors = {name: torch.randn(*shape, generator=generator) for name, shape in shapes.items()}
    tensors["A"] = -strength * tensors["A"].exp()
    tensors["dt"] -= 3
    return {name: x.to(dtype) for name, x in tensors.items() if name not in leave_out}


def errors(tensors, **options) -> dict[str, float]:
    options = {"output_final_state": True, "dt_softplus": True, **options}
    wide = {name: x.double() for name, x in tensors.items()}
    expected = outputs_and_gradients(selective_scan_reference, wide, **options)
    actual = outputs_and_gradients(KERNELS, tensors, **options)
    return {name: relative_error(actual[name], expected[name]) for name in expected}


def assert_agrees(tensors, **options):
    worst = errors(tensors, **options)
    assert max(worst.values()) <= TOLERANCE[tensors["u"].dtype], worst


@pytest.mark.parametrize("dtype, T", [(torch.float32, T) for T in (1, 63, 64, 65)] + [(torch.bfloat16, 65)])
def test_kernels_equal_reference_in_value_state_and_gradients(T, dtype):
    assert_agrees(draw(T=T, dtype=dtype))


def test_several_sequences_equal_reference(monkeypatch):
    monkeypatch.setattr(scan_triton, "SEGMENT", 8)
    assert_agrees(draw(B=2, T=17))


@pytest.mark.parametrize("name", ["D", "z", "dt_bias", "initial_state"])
def test_each_optional_argument_may_be_left_out(name):
    assert_agrees(draw(T=9, leave_out=[name]))


@pytest.mark.parametrize("D, N", [(3, 1), (5, 16), (260, 5), (33, 32)])
def test_channels_of_several_programs_and_other_widths_of_state_equal_reference(D, N):
    assert_agrees(draw(T=5, D=D, N=N))


def test_without_softplus_dt_is_taken_as_it_is():
    tensors = draw(T=9)
    tensors |= {"dt": tensors["dt"].abs(), "dt_bias": tensors["dt_bias"].abs()}
    assert_agrees(tensors, dt_softplus=False)


@pytest.mark.parametrize("segment", [1, 7])
def test_the_length_of_a_segment_changes_nothing(segment, monkeypatch):
    monkeypatch.setattr(scan_triton, "SEGMENT", segment)
    assert_agrees(draw(T=15))


@pytest.mark.parametrize("strength", [0.0, 1e-4, 50.0, 1e3])
def test_no_decay_is_too_weak_or_too_strong(strength):
    assert_agrees(draw(T=70, strength=strength))


def test_views_without_any_dense_axis_equal_reference():
    tensors = draw(T=9)
    expected = KERNELS(**tensors, dt_softplus=True)[0]
    assert relative_error(KERNELS(**strided(tensors), dt_softplus=True)[0], expected) <= 1e-6


def test_a_sequence_continues_from_the_state_of_its_beginning():
    tensors = draw(T=20)
    options = {"dt_softplus": True, "output_final_state": True}
    whole, final = KERNELS(**tensors, **options)
    parts, state = [], tensors["initial_state"]
    for span in (slice(0, 13), slice(13, 14), slice(14, 20)):
        part = {name: x[:, span] if name in ("u", "dt", "B", "C", "z") else x for name, x in tensors.items()}
        y, state = KERNELS(**{**part, "initial_state": state}, **options)
        parts.append(y)
    assert final is not None
    assert state is not None
    assert relative_error(torch.cat(parts, 1), whole) <= 1e-6
    assert relative_error(state, final) <= 1e-6


@pytest.mark.parametrize("leave_out", [[], ["z"], ["D", "dt_bias"]])
@pytest.mark.parametrize("D, N", [(6, 4), (5, 5), (130, 16)])
def test_a_step_equals_the_pytorch_step(D, N, leave_out):
    tensors = draw(B=3, T=1, D=D, N=N, leave_out=leave_out)
    fixed = {name: tensors[name] for name in ("A", "D", "dt_bias") if name in tensors}
    of_token = {name: tensors[name][:, 0] for name in ("u", "dt", "B", "C", "z") if name in tensors}
    states = [tensors["initial_state"].clone() for _ in range(2)]
    y, expected = (
        selective_scan_step(**of_token, **fixed, state=state, dt_softplus=True, backend=backend)
        for state, backend in zip(states, ("triton", "torch"), strict=True)
    )
    assert relative_error(y, expected) <= 1e-6
    assert relative_error(*states) <= 1e-6


def test_a_step_reads_views_of_a_joint_projection_and_keeps_the_rules_of_torch_library():
    wide, state, A = torch.randn(3, 40), torch.randn(3, 8, 4), -torch.rand(8, 4)
    u, dt, z, B, C = wide.split([8, 8, 8, 4, 4, 8], dim=1)[:5]
    arguments = (u, dt, A, B, C, state, None, z, None, True)
    expected_state = state.clone()
    expected = selective_scan_step(u, dt, A, B, C, expected_state, z=z, dt_softplus=True, backend="torch")
    torch.library.opcheck(step_triton.selective_scan_step_triton.registered, arguments)
    assert relative_error(step_triton.selective_scan_step_triton(*arguments), expected) <= 1e-6
    assert relative_error(state, expected_state) <= 1e-6


def test_what_the_kernels_do_not_hold_is_computed_by_the_pytorch_form():
    tensors = draw(T=5, N=40)
    assert torch.equal(KERNELS(**tensors)[0], selective_scan(**tensors, backend="torch")[0])


def test_the_operator_keeps_the_rules_of_torch_library():
    tensors = {name: x.requires_grad_() for name, x in draw(T=3).items()}
    names = ("u", "dt", "A", "B", "C", "D", "z", "dt_bias", "initial_state")
    checks = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_static")
    torch.library.opcheck(scan_triton.scan.registered, (*(tensors[name] for name in names), True), test_utils=checks)


def test_compiled_and_checkpointed_gradients_are_the_same():
    tensors = draw(T=5)
    options = {"dt_softplus": True, "output_final_state": True}
    expected = outputs_and_gradients(KERNELS, tensors, **options)
    compiled = torch.compile(KERNELS, backend="aot_eager", fullgraph=True)
    checkpointed = partial(torch.utils.checkpoint.checkpoint, KERNELS, use_reentrant=False)
    for wrapped in (compiled, checkpointed):
        for name, actual in outputs_and_gradients(wrapped, tensors, **options).items():
            assert torch.equal(actual, expected[name]), name
