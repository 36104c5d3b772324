"""The selective scan: the chunked form and the step give what the sequential reference gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hybridlab.kernels import selective_scan, selective_scan_reference, selective_scan_step
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.checkpoint import checkpoint

from .agreement import assert_agree, outputs_and_gradients, strided
from .tolerances import assert_close

OPTIONAL = ["D", "z", "dt_bias", "initial_state"]


def draw(*, B=2, T=65, D=6, N=4, strength=1.0, leave_out=(), dtype=torch.float32, seed=0) -> dict[str, Any]:
    """Random arguments; A is −strength·exp(normal)."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"u": (B, T, D), "dt": (B, T, D), "A": (D, N), "B": (B, T, N), "C": (B, T, N), "D": (D,), "z": (B, T, D)}
    shapes |= {"dt_bias": (D,), "initial_state": (B, D, N)}
    tensors = {name: torch.randn(*shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()}
    tensors["A"] = -strength * tensors["A"].exp()
    return {name: x.to(dtype) for name, x in tensors.items() if name not in leave_out}


def assert_agrees_with_reference(tensors, dtype=None, **options):
    options = {"output_final_state": True, "dt_softplus": True, **options}
    assert_agree(selective_scan, selective_scan_reference, tensors, dtype, **options)


@pytest.mark.parametrize("T", [1, 63, 64, 65, 200])
def test_chunked_form_equals_reference_in_value_state_and_gradients(T):
    assert_agrees_with_reference(draw(T=T))


@pytest.mark.parametrize("chunk", [1, 4, 7, 64])
def test_the_length_of_a_chunk_changes_nothing(chunk, monkeypatch):
    module = pytest.importorskip("hybridlab.kernels.selective_scan.chunked")
    monkeypatch.setattr(module, "STATES_PER_CHUNK", chunk * 2 * 6 * 4)
    assert_agrees_with_reference(draw(T=65))


@pytest.mark.parametrize("name", OPTIONAL)
def test_each_optional_argument_may_be_left_out(name):
    assert_agrees_with_reference(draw(T=20, leave_out=[name]))


def test_without_softplus_dt_is_taken_as_it_is():
    tensors = draw(T=20)
    assert_agrees_with_reference(tensors | {"dt": tensors["dt"].abs(), "dt_bias": tensors["dt_bias"].abs()},
                                 dt_softplus=False)  # fmt: skip


@pytest.mark.parametrize("strength", [0.0, 1e-4, 50.0, 1e4])
def test_no_decay_is_too_weak_or_too_strong(strength):
    assert_agrees_with_reference(draw(T=100, strength=strength))


def test_fp64_inputs_are_computed_in_fp64():
    assert_agrees_with_reference(draw(dtype=torch.float64), torch.float64)


def test_gradients_are_those_of_finite_differences():
    tensors = draw(B=1, T=4, D=2, N=2, dtype=torch.float64)
    names = list(tensors)

    def operation(*values) -> Any:
        given = dict(zip(names, values, strict=True))
        return selective_scan(**given, dt_softplus=True, output_final_state=True)

    assert torch.autograd.gradcheck(operation, [x.requires_grad_() for x in tensors.values()])


@settings(max_examples=25, deadline=None)
@given(B=st.integers(1, 3), T=st.integers(1, 30), D=st.integers(1, 9), N=st.integers(1, 9),
       leave_out=st.sets(st.sampled_from(OPTIONAL)), seed=st.integers(0, 99))  # fmt: skip
def test_any_shape_equals_reference(B, T, D, N, leave_out, seed):
    # fp64 numbers at fp32's tolerance: a lone output may be a sum that cancels
    tensors = draw(B=B, T=T, D=D, N=N, leave_out=leave_out, dtype=torch.float64, seed=seed)
    assert_agrees_with_reference(tensors, torch.float32)


@pytest.mark.parametrize("softplus", [False, True])
def test_steps_equal_reference(softplus):
    tensors = draw(T=20)
    tensors["dt"] = tensors["dt"].abs()
    expected, final = selective_scan_reference(**tensors, dt_softplus=softplus, output_final_state=True)
    state = tensors["initial_state"].clone()
    outputs = []
    for t in range(20):
        of_token = {name: tensors[name][:, t] for name in ("u", "dt", "B", "C", "z")}
        fixed = {name: tensors[name] for name in ("A", "D", "dt_bias")}
        outputs.append(selective_scan_step(**of_token, **fixed, state=state, dt_softplus=softplus))
    assert_close(torch.stack(outputs, 1), expected, "y")
    assert_close(state, final, "state")


def test_a_sequence_continues_from_the_state_of_its_beginning():
    tensors = draw(T=50, leave_out=["dt_bias"])
    tensors["dt"] = tensors["dt"].abs()
    whole, final = selective_scan(**tensors, output_final_state=True)
    parts, state = [], tensors["initial_state"]
    for span in (slice(0, 20), slice(20, 21), slice(21, 50)):
        part = {name: x[:, span] if name in ("u", "dt", "B", "C", "z") else x for name, x in tensors.items()}
        y, state = selective_scan(**{**part, "initial_state": state}, output_final_state=True)
        parts.append(y)
    assert_close(torch.cat(parts, 1), whole, "y")
    assert_close(state, final, "state")


def test_half_precision_inputs_are_computed_in_fp32():
    tensors = draw(dtype=torch.bfloat16)
    y, state = selective_scan(**tensors, dt_softplus=True, output_final_state=True)
    assert state is not None
    assert (y.dtype, state.dtype) == (torch.bfloat16, torch.float32)
    expected, final = selective_scan_reference(**tensors, dt_softplus=True, output_final_state=True)
    assert_close(y, expected, "y")
    assert_close(state, final, "state")


def under_autocast(**tensors):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return selective_scan(**tensors, dt_softplus=True)


def checkpointed(**tensors):
    return checkpoint(lambda: selective_scan(**tensors, dt_softplus=True)[0], use_reentrant=False)


@pytest.mark.parametrize("wrapped", [under_autocast, checkpointed])
def test_autocast_and_checkpointing_change_no_value_and_no_gradient(wrapped):
    tensors = draw()
    expected = outputs_and_gradients(selective_scan, tensors, dt_softplus=True)
    for name, value in outputs_and_gradients(wrapped, tensors).items():
        assert torch.equal(value, expected[name]), name


def test_strided_views_are_taken_as_they_are():
    tensors = draw(T=70)
    expected = selective_scan(**tensors, dt_softplus=True, output_final_state=True)
    for actual, wanted in zip(
        selective_scan(**strided(tensors), dt_softplus=True, output_final_state=True), expected, strict=True
    ):
        assert_close(actual, wanted, "output")


BAD = {
    "A per token": ({"A": torch.zeros(2, 9, 6)}, r"A is \[D, N\]"),
    "u of another width": ({"u": torch.zeros(2, 9, 5)}, "u has shape"),
    "dt of another length": ({"dt": torch.zeros(2, 8, 6)}, "dt has shape"),
    "B of another width": ({"B": torch.zeros(2, 9, 5)}, "B has shape"),
    "C of another batch": ({"C": torch.zeros(3, 9, 4)}, "C has shape"),
    "D per state": ({"D": torch.zeros(4)}, "D has shape"),
    "z of another width": ({"z": torch.zeros(2, 9, 5)}, "z has shape"),
    "dt_bias per state": ({"dt_bias": torch.zeros(4)}, "dt_bias has shape"),
    "a transposed state": ({"initial_state": torch.zeros(2, 4, 6)}, "state has shape"),
    "no token": ({"u": torch.zeros(2, 0, 6)}, "not empty"),
    "integers": ({"u": torch.zeros(2, 9, 6, dtype=torch.int64)}, "floating point"),
    "an unknown backend": ({"backend": "cuda"}, "backend 'cuda' is not one of auto, torch, triton"),
}


@pytest.mark.parametrize("change, message", BAD.values(), ids=BAD.keys())
def test_arguments_that_do_not_fit_are_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        selective_scan(**{**draw(T=9), **change})
