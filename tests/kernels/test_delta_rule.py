"""The delta rules: the chunked forms and the steps give what the sequential references give."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from hybridlab.kernels import (
    delta_rule,
    delta_rule_reference,
    delta_rule_step,
    dplr,
    dplr_reference,
    dplr_step,
    gated_linear_attention,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.checkpoint import checkpoint

from .agreement import assert_agree, outputs_and_gradients, strided
from .tolerances import assert_close

FORMS = {
    "delta_rule": (delta_rule, delta_rule_reference, delta_rule_step),
    "dplr": (dplr, dplr_reference, dplr_step),
}
KINDS = ["none", "head", "token", "channel"]
# Every recurrence of this room: the delta rule with each kind of decay, and dplr, whose decay is per channel.
RULES = [*KINDS, "dplr"]


def forms(rule) -> Any:
    return FORMS["dplr" if rule == "dplr" else "delta_rule"]


def draw(
    rule, *, B=2, T=65, Hk=2, H=2, K=8, V=12, strength=1.0, sequences=None, dtype=torch.float32, seed=0
) -> dict[str, Any]:
    """Random arguments: keys of norm 1, beta in (0, 2), decays −strength·|normal|, and dplr's b·a like RWKV-7's."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    q, k = torch.nn.functional.normalize(normal(2, B, T, Hk, K), dim=-1)
    tensors = {"q": q, "k": k, "v": normal(B, T, H, V), "initial_state": normal(sequences or B, H, K, V)}
    if rule == "dplr":
        removed = torch.nn.functional.normalize(normal(B, T, Hk, K), dim=-1)
        tensors |= {"a": -removed, "b": removed * normal(B, T, Hk, K).sigmoid()}
    else:
        tensors["beta"] = 2 * normal(B, T, H).sigmoid()
    if rule != "none":
        shape = {"head": (H,), "token": (B, T, H)}.get(rule, (B, T, H, K))
        tensors["decay"] = -strength * normal(*shape).abs()
    return {name: x.to(dtype) for name, x in tensors.items()}


def assert_agrees_with_reference(rule, tensors, dtype=None, **options):
    fast, reference, _ = forms(rule)
    assert_agree(fast, reference, tensors, dtype, **{"output_final_state": True, **options})


@pytest.mark.parametrize("T", [1, 63, 64, 65, 200])
@pytest.mark.parametrize("rule", RULES)
def test_chunked_form_equals_reference_in_value_state_and_gradients(rule, T):
    assert_agrees_with_reference(rule, draw(rule, T=T))


@pytest.mark.parametrize("rule", RULES)
def test_wide_heads_and_long_chunks_stay_exact(rule):
    assert_agrees_with_reference(rule, draw(rule, B=1, T=130, K=64, V=16))


@pytest.mark.parametrize("rule", RULES)
def test_heads_of_a_group_share_queries_and_keys(rule):
    assert_agrees_with_reference(rule, draw(rule, T=33, Hk=2, H=6))


@pytest.mark.parametrize("rule", RULES)
def test_without_states_one_chunk_equals_reference(rule):
    tensors = draw(rule, T=16)
    del tensors["initial_state"]
    assert_agrees_with_reference(rule, tensors, output_final_state=False)


@pytest.mark.parametrize("rule", ["head", "token", "channel", "dplr"])
@pytest.mark.parametrize("strength", [0.0, 1e-4, 30.0, 50.0, 1e4])
def test_no_decay_is_too_weak_or_too_strong(rule, strength):
    assert_agrees_with_reference(rule, draw(rule, T=100, strength=strength))


@pytest.mark.parametrize("rule", ["token", "channel", "dplr"])
@pytest.mark.parametrize("strong", [-30.0, -50.0, float("-inf")])
def test_strong_decays_among_weak_ones_stay_exact(rule, strong):
    tensors = draw(rule, T=130, strength=0.01)
    forgets = torch.rand(tensors["decay"].shape, generator=torch.Generator().manual_seed(2)) < 0.3
    assert_agrees_with_reference(rule, tensors | {"decay": tensors["decay"].masked_fill(forgets, strong)})


def test_one_key_written_again_and_again_with_beta_2_stays_exact():
    tensors = draw("none", T=100)
    same = tensors["k"][:, :1].expand_as(tensors["k"])
    assert_agrees_with_reference("none", tensors | {"k": same, "beta": torch.full_like(tensors["beta"], 2.0)})


@pytest.mark.parametrize("rule", RULES)
def test_fp64_inputs_are_computed_in_fp64(rule):
    assert_agrees_with_reference(rule, draw(rule, T=70, dtype=torch.float64), torch.float64)


@pytest.mark.parametrize("rule", RULES)
def test_gradients_are_those_of_finite_differences(rule):
    tensors = draw(rule, B=1, T=5, Hk=1, H=2, K=2, V=2, dtype=torch.float64)
    names = list(tensors)

    def operation(*values) -> Any:
        return forms(rule)[0](**dict(zip(names, values, strict=True)), output_final_state=True)

    assert torch.autograd.gradcheck(operation, [x.requires_grad_() for x in tensors.values()])


@settings(max_examples=40, deadline=None)
@given(
    rule=st.sampled_from(RULES), B=st.integers(1, 3), T=st.integers(1, 40), Hk=st.integers(1, 3), G=st.integers(1, 3),
    K=st.integers(1, 20), V=st.integers(1, 9), scale=st.sampled_from([None, 1.0, 0.3]), seed=st.integers(0, 99),
)  # fmt: skip
def test_any_shape_equals_reference(rule, B, T, Hk, G, K, V, scale, seed):
    # fp64 numbers at fp32's tolerance: a lone output may be a sum that cancels
    tensors = draw(rule, B=B, T=T, Hk=Hk, H=Hk * G, K=K, V=V, dtype=torch.float64, seed=seed)
    assert_agrees_with_reference(rule, tensors, torch.float32, scale=scale)


@pytest.mark.parametrize("rule", RULES)
def test_packed_sequences_equal_separate_ones(rule):
    offsets = [0, 1, 1, 30, 95]
    tensors = draw(rule, B=1, T=95, sequences=4)
    options = {"output_final_state": True, "cu_seqlens": torch.tensor(offsets, dtype=torch.int32)}
    assert_agrees_with_reference(rule, tensors, **options)
    fast = forms(rule)[0]
    packed, states = fast(**tensors, **options)
    assert states is not None
    for n, (start, end) in enumerate(pairwise(offsets)):
        past = tensors["initial_state"][n : n + 1]
        if start == end:
            assert torch.equal(states[n : n + 1], past)
            continue
        alone = {name: x[:, start:end] if x.ndim > 1 else x for name, x in tensors.items()}
        o, state = fast(**{**alone, "initial_state": past}, output_final_state=True)
        assert_close(packed[:, start:end], o, f"o of sequence {n}")
        assert_close(states[n : n + 1], state, f"state of sequence {n}")


@pytest.mark.parametrize("rule", RULES)
def test_steps_equal_reference(rule):
    tensors = draw(rule, T=20, Hk=2, H=4)
    _, reference, step = forms(rule)
    expected, final = reference(**tensors, output_final_state=True)
    state = tensors.pop("initial_state").clone()
    outputs = []
    for t in range(20):
        of_token = {name: x[:, t] if x.ndim > 1 else x for name, x in tensors.items()}
        outputs.append(step(**of_token, state=state))
    assert_close(torch.stack(outputs, 1), expected, "o")
    assert_close(state, final, "state")


def test_dplr_with_the_right_a_and_b_is_the_delta_rule():
    tensors = draw("channel", T=50)
    expected, final = delta_rule(**tensors, output_final_state=True)
    beta = tensors.pop("beta")[..., None]
    k = tensors["k"]
    tensors |= {"v": beta * tensors["v"], "a": k * tensors["decay"].exp(), "b": -beta * k}
    o, state = dplr(**tensors, output_final_state=True)
    assert_close(o, expected, "o")
    assert_close(state, final, "state")


def test_dplr_without_low_rank_is_gated_linear_attention():
    tensors = draw("dplr", T=50)
    tensors["a"].zero_()
    o, state = dplr(**tensors, output_final_state=True)
    del tensors["a"], tensors["b"]
    expected, final = gated_linear_attention(**tensors, output_final_state=True)
    assert_close(o, expected, "o")
    assert_close(state, final, "state")


def test_beta_1_recalls_what_was_written_last():
    tensors = draw("none", T=30, K=4)
    tensors |= {"q": tensors["k"], "beta": torch.ones(2, 30, 2)}
    o, _ = delta_rule(**tensors, scale=1.0)
    assert_close(o, tensors["v"], "o")


@pytest.mark.parametrize("rule", RULES)
def test_half_precision_inputs_are_computed_in_fp32(rule):
    fast, reference, _ = forms(rule)
    tensors = draw(rule, T=80, dtype=torch.bfloat16)
    o, state = fast(**tensors, output_final_state=True)
    assert state is not None
    assert (o.dtype, state.dtype) == (torch.bfloat16, torch.float32)
    expected, final = reference(**tensors, output_final_state=True)
    assert_close(o, expected, "o")
    assert_close(state, final, "state")


@pytest.mark.parametrize("rule", ["channel", "dplr"])
def test_autocast_and_checkpointing_change_no_value_and_no_gradient(rule):
    fast = forms(rule)[0]

    def under_autocast(**tensors):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return fast(**tensors)

    def checkpointed(**tensors):
        return checkpoint(lambda: fast(**tensors)[0], use_reentrant=False)

    tensors = draw(rule, T=40)
    expected = outputs_and_gradients(fast, tensors)
    for wrapped in (under_autocast, checkpointed):
        for name, value in outputs_and_gradients(wrapped, tensors).items():
            assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize("rule", RULES)
def test_strided_views_are_taken_as_they_are(rule):
    tensors = draw(rule, T=70, Hk=2, H=4)
    fast = forms(rule)[0]
    expected = fast(**tensors, output_final_state=True)
    for actual, wanted in zip(fast(**strided(tensors), output_final_state=True), expected, strict=True):
        assert_close(actual, wanted, "output")


BAD = {
    "q of three axes": ("channel", {"q": torch.zeros(2, 9, 8)}, "got q"),
    "k of another width": ("channel", {"k": torch.zeros(2, 9, 2, 7)}, "k has shape"),
    "heads that do not divide": ("none", {"v": torch.zeros(2, 9, 3, 12)}, "3 heads"),
    "beta per channel": ("none", {"beta": torch.zeros(2, 9, 2, 8)}, "beta has shape"),
    "a decay that fits no kind": ("channel", {"decay": torch.zeros(2, 9)}, "decay has shape"),
    "a kind without its decay": ("none", {"kind": "token"}, "needs a decay"),
    "a transposed state": ("token", {"initial_state": torch.zeros(2, 2, 12, 8)}, "initial_state has shape"),
    "integers": ("none", {"beta": torch.zeros(2, 9, 2, dtype=torch.int64)}, "floating point"),
    "packing several rows": ("none", {"cu_seqlens": torch.tensor([0, 9])}, "B must be 1"),
    "a of another width": ("dplr", {"a": torch.zeros(2, 9, 2, 7)}, "a has shape"),
    "b of another length": ("dplr", {"b": torch.zeros(2, 8, 2, 8)}, "b has shape"),
    "a decay per token": ("dplr", {"decay": torch.zeros(2, 9, 2)}, "decay has shape"),
}


@pytest.mark.parametrize("rule, change, message", BAD.values(), ids=BAD.keys())
def test_arguments_that_do_not_fit_are_refused_by_name(rule, change, message):
    with pytest.raises(ValueError, match=message):
        forms(rule)[0](**{**draw(rule, T=9), **change})
