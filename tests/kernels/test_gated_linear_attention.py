"""Gated linear attention: the chunked form and the step give what the sequential reference gives."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from hybridlab.kernels import (
    gated_linear_attention,
    gated_linear_attention_reference,
    gated_linear_attention_step,
)
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.utils.checkpoint import checkpoint

from .agreement import assert_agree, outputs_and_gradients, strided
from .tolerances import assert_close

KINDS = ["none", "head", "token", "channel"]
LENGTHS = [1, 63, 64, 65, 200]


def draw(kind="channel", *, B=2, T=65, Hk=2, H=2, K=8, V=12, bonus=False, normalize=False, strength=1.0, sequences=None,
         dtype=torch.float32, seed=0) -> dict[str, Any]:  # fmt: skip
    """Random arguments; decays are −strength·|normal|, and where the output is normalised q and k are positive."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    q, k = normal(2, B, T, Hk, K)
    state = normal(sequences or B, H, K, V + normalize)
    if normalize:
        q, k = q.abs() + 0.1, k.abs() + 0.1
        state[..., -1].abs_()
    tensors = {"q": q, "k": k, "v": normal(B, T, H, V), "initial_state": state}
    if kind != "none":
        shape = {"head": (H,), "token": (B, T, H), "channel": (B, T, H, K)}[kind]
        tensors["decay"] = -strength * normal(*shape).abs()
    if bonus:
        tensors["bonus"] = normal(H, K).abs()
    return {name: x.to(dtype) for name, x in tensors.items()}


def assert_agrees_with_reference(tensors, dtype=None, **options):
    options = {"output_final_state": True, **options}
    assert_agree(gated_linear_attention, gated_linear_attention_reference, tensors, dtype, **options)


@pytest.mark.parametrize("T", LENGTHS)
@pytest.mark.parametrize("kind", KINDS)
def test_chunked_form_equals_reference_in_value_state_and_gradients(kind, T):
    assert_agrees_with_reference(draw(kind, T=T), kind=kind)


@pytest.mark.parametrize("T", [1, 65])
@pytest.mark.parametrize("kind", KINDS)
def test_bonus_weights_the_token_itself(kind, T):
    assert_agrees_with_reference(draw(kind, T=T, bonus=True), kind=kind)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bonus", [False, True])
def test_heads_of_a_group_share_queries_and_keys(kind, bonus):
    assert_agrees_with_reference(draw(kind, T=33, Hk=2, H=6, bonus=bonus))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bonus", [False, True])
def test_normalised_output_equals_reference(kind, bonus):
    assert_agrees_with_reference(draw(kind, T=40, normalize=True, bonus=bonus), normalize=True)


@pytest.mark.parametrize("kind", ["head", "token", "channel"])
@pytest.mark.parametrize("strength", [0.0, 1e-4, 30.0, 50.0, 1e4])
def test_no_decay_is_too_weak_or_too_strong(kind, strength):
    assert_agrees_with_reference(draw(kind, T=100, strength=strength, bonus=kind == "channel"))


@pytest.mark.parametrize("kind", ["token", "channel"])
@pytest.mark.parametrize("strong", [-30.0, -50.0, -1e4, float("-inf")])
def test_strong_decays_among_weak_ones_stay_exact(kind, strong):
    tensors = draw(kind, T=130, strength=0.01)
    forgets = torch.rand(tensors["decay"].shape, generator=torch.Generator().manual_seed(2)) < 0.3
    assert_agrees_with_reference(tensors | {"decay": tensors["decay"].masked_fill(forgets, strong)})


def test_fp64_inputs_are_computed_in_fp64():
    for kind in KINDS:
        assert_agrees_with_reference(draw(kind, T=70, dtype=torch.float64), torch.float64)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bonus", [False, True])
def test_gradients_are_those_of_finite_differences(kind, bonus):
    tensors = draw(kind, B=1, T=5, Hk=1, H=2, K=2, V=2, bonus=bonus, dtype=torch.float64)
    names = list(tensors)

    def operation(*values) -> Any:
        return gated_linear_attention(**dict(zip(names, values, strict=True)), output_final_state=True)

    assert torch.autograd.gradcheck(operation, [x.requires_grad_() for x in tensors.values()])


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(KINDS), B=st.integers(1, 3), T=st.integers(1, 40), Hk=st.integers(1, 3), G=st.integers(1, 3),
    K=st.integers(1, 20), V=st.integers(1, 9), bonus=st.booleans(), normalize=st.booleans(),
    scale=st.sampled_from([None, 1.0, 0.3]), seed=st.integers(0, 99),
)  # fmt: skip
def test_any_shape_equals_reference(kind, B, T, Hk, G, K, V, bonus, normalize, scale, seed):
    assume(not (normalize and K == 1))  # there q cancels: its gradient is exactly zero and no error relative to it
    # fp64 numbers at fp32's tolerance: a lone output may be a sum that cancels
    sizes = {"B": B, "T": T, "Hk": Hk, "H": Hk * G, "K": K, "V": V}
    tensors = draw(kind, **sizes, bonus=bonus, normalize=normalize, dtype=torch.float64, seed=seed)
    assert_agrees_with_reference(tensors, torch.float32, normalize=normalize, scale=scale)


@pytest.mark.parametrize("kind", KINDS)
def test_final_state_is_left_out_and_zero_state_assumed_unless_asked(kind):
    tensors = draw(kind, T=30)
    zero = tensors.pop("initial_state") * 0
    o, state = gated_linear_attention(**tensors)
    assert state is None
    assert_close(o, gated_linear_attention_reference(**tensors, initial_state=zero)[0], "o")


@pytest.mark.parametrize("kind", KINDS)
def test_packed_sequences_equal_separate_ones(kind):
    offsets = [0, 1, 1, 30, 95]
    tensors = draw(kind, B=1, T=95, sequences=4, bonus=kind == "channel")
    options = {"output_final_state": True, "cu_seqlens": torch.tensor(offsets, dtype=torch.int32)}
    assert_agrees_with_reference(tensors, **options)
    packed, states = gated_linear_attention(**tensors, **options)
    assert states is not None
    for n, (start, end) in enumerate(pairwise(offsets)):
        if start == end:
            assert torch.equal(states[n], tensors["initial_state"][n])
            continue
        alone = {
            name: x[:, start:end] if name in ("q", "k", "v") or (name == "decay" and kind != "head") else x
            for name, x in tensors.items()
        } | {"initial_state": tensors["initial_state"][n : n + 1]}
        o, state = gated_linear_attention(**alone, output_final_state=True)
        assert_close(packed[:, start:end], o, f"o of sequence {n}")
        assert_close(states[n : n + 1], state, f"state of sequence {n}")


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("bonus", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_steps_equal_reference(kind, bonus, normalize):
    tensors = draw(kind, T=20, Hk=2, H=4, bonus=bonus, normalize=normalize)
    expected, final = gated_linear_attention_reference(**tensors, normalize=normalize, output_final_state=True)
    state = tensors["initial_state"].clone()
    outputs = []
    for t in range(20):
        of_token = {name: tensors[name][:, t] for name in ("q", "k", "v")}
        if kind != "none":
            of_token["decay"] = tensors["decay"] if kind == "head" else tensors["decay"][:, t]
        step = gated_linear_attention_step(
            **of_token, state=state, kind=kind, bonus=tensors.get("bonus"), normalize=normalize
        )
        outputs.append(step)
    assert_close(torch.stack(outputs, 1), expected, "o")
    assert_close(state, final, "state")


def test_a_sequence_continues_from_the_state_of_its_beginning():
    tensors = draw("token", T=150)
    whole, final = gated_linear_attention(**tensors, output_final_state=True)
    parts, state = [], tensors["initial_state"]
    for span in (slice(0, 70), slice(70, 71), slice(71, 150)):
        part = {name: tensors[name][:, span] for name in ("q", "k", "v", "decay")}
        o, state = gated_linear_attention(**part, initial_state=state, output_final_state=True)
        parts.append(o)
    assert_close(torch.cat(parts, 1), whole, "o")
    assert_close(state, final, "state")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_inputs_are_computed_in_fp32(dtype):
    tensors = draw("channel", T=80, dtype=dtype)
    o, state = gated_linear_attention(**tensors, output_final_state=True)
    assert state is not None
    assert (o.dtype, state.dtype) == (dtype, torch.float32)
    expected, final = gated_linear_attention_reference(**tensors, output_final_state=True)
    assert_close(o, expected, "o")
    assert_close(state, final, "state")


def under_autocast(**tensors):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return gated_linear_attention(**tensors)


def checkpointed(**tensors):
    return checkpoint(lambda: gated_linear_attention(**tensors)[0], use_reentrant=False)


@pytest.mark.parametrize("wrapped", [under_autocast, checkpointed])
def test_autocast_and_checkpointing_change_no_value_and_no_gradient(wrapped):
    tensors = draw("channel", T=80)
    expected = outputs_and_gradients(gated_linear_attention, tensors)
    for name, value in outputs_and_gradients(wrapped, tensors).items():
        assert torch.equal(value, expected[name]), name


def test_strided_views_are_taken_as_they_are():
    tensors = draw("channel", T=70, Hk=2, H=4)
    expected = gated_linear_attention(**tensors, output_final_state=True)
    for actual, wanted in zip(
        gated_linear_attention(**strided(tensors), output_final_state=True), expected, strict=True
    ):
        assert_close(actual, wanted, "output")


BAD = {
    "q of three axes": ({"q": torch.zeros(2, 9, 8)}, "got q"),
    "k of another width": ({"k": torch.zeros(2, 9, 2, 7)}, "k has shape"),
    "v of another length": ({"v": torch.zeros(2, 8, 2, 12)}, "v has shape"),
    "heads that do not divide": ({"v": torch.zeros(2, 9, 3, 12)}, "3 heads"),
    "a decay that fits no kind": ({"decay": torch.zeros(2, 9)}, "decay has shape"),
    "a kind with another decay": ({"kind": "token"}, "decay has shape"),
    "an unknown kind": ({"kind": "scalar"}, "'scalar' is not one of none, head, token, channel"),
    "a kind without its decay": ({"kind": "head", "decay": None}, "needs a decay"),
    "no kind with a decay": ({"kind": "none"}, "takes no decay"),
    "a bonus per token": ({"bonus": torch.zeros(2, 9, 2, 8)}, "bonus has shape"),
    "a transposed state": ({"initial_state": torch.zeros(2, 2, 12, 8)}, "initial_state has shape"),
    "a state without its normaliser": ({"normalize": True}, "initial_state has shape"),
    "integers": ({"v": torch.zeros(2, 9, 2, 12, dtype=torch.int64)}, "floating point"),
    "tensors apart": ({"v": torch.zeros(2, 9, 2, 12, device="meta")}, "is on meta"),
    "packing several rows": ({"cu_seqlens": torch.tensor([0, 9])}, "B must be 1"),
    "an unknown backend": ({"backend": "cuda"}, "'cuda' is not one of auto, torch, triton"),
}


@pytest.mark.parametrize("change, message", BAD.values(), ids=BAD.keys())
def test_arguments_that_do_not_fit_are_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        gated_linear_attention(**{**draw("channel", T=9), **change})


@pytest.mark.parametrize("offsets", [[0, 5], [1, 9], [0, 6, 4, 9]])
def test_offsets_that_do_not_rise_from_0_to_T_are_refused(offsets):
    tensors = draw("none", B=1, T=9, sequences=len(offsets) - 1)
    with pytest.raises(ValueError, match="must rise from 0 to T = 9"):
        gated_linear_attention(**tensors, cu_seqlens=torch.tensor(offsets))


def test_a_step_refuses_a_state_of_another_shape():
    with pytest.raises(ValueError, match=r"state has shape \[1, 2, 4, 3\]: expected \[1, 2, 4, 5\]"):
        gated_linear_attention_step(
            torch.zeros(1, 2, 4), torch.zeros(1, 2, 4), torch.zeros(1, 2, 5), torch.zeros(1, 2, 4, 3)
        )
