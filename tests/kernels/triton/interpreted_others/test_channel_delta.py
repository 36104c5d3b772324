"""The Triton kernels of the delta rule with a decay per channel, and of dplr, give what the references give."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hybridlab.kernels import delta_rule, delta_rule_reference, dplr, dplr_reference, dplr_step
from hybridlab.kernels.delta_rule import channel_launch
from hybridlab.kernels.delta_rule.channel_triton import channel_operator

from ...agreement import outputs_and_gradients, strided
from ...tolerances import relative_error

TOLERANCE = {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 5e-3}
FORMS = {
    "delta": (partial(delta_rule, backend="triton"), delta_rule_reference),
    "dplr": (partial(dplr, backend="triton"), dplr_reference),
}
RULES = list(FORMS)


def draw(rule, *, B=1, T=65, Hk=1, H=1, K=16, V=16, strength=0.6, N=None, dtype=torch.float32, wide=()) -> Any:
    """Random arguments as models have them: keys of norm 1, beta in (0, 2), dplr's a and b as RWKV-7's.

    Decays are uniform to e^-strength, from strength 1 on as |normal|; arguments in `wide` stay fp32.
    """
    generator = torch.Generator().manual_seed(T)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    q, k, removed = F.normalize(normal(3, B, T, Hk, K), dim=-1)
    decay = normal(B, T, H, K)
    tensors = {"q": q, "k": k, "v": normal(B, T, H, V)}
    if rule == "dplr":
        tensors |= {"a": -removed, "b": removed * normal(B, T, Hk, K).sigmoid()}
    else:
        tensors["beta"] = 2 * normal(B, T, H).sigmoid()
    tensors["decay"] = -strength * (decay.sigmoid() if strength < 1 else decay.abs())
    tensors = {name: x if name in wide else x.to(dtype) for name, x in tensors.items()}
    return tensors | {"initial_state": normal(N or B, H, K, V)}


def assert_agrees(rule, tensors, **options):
    fast, reference = FORMS[rule]
    options = {"output_final_state": True, **options}
    expected = outputs_and_gradients(reference, {name: x.double() for name, x in tensors.items()}, **options)
    limit = TOLERANCE[tensors["v"].dtype]
    for name, actual in outputs_and_gradients(fast, tensors, **options).items():
        error = relative_error(actual, expected[name])
        assert error <= (2 * limit if name == "gradient of decay" else limit), f"{name}: {error:.1e}"


@pytest.mark.parametrize("T", [1, 31, 32, 65])
@pytest.mark.parametrize("rule", RULES)
def test_kernels_equal_reference_in_value_state_and_gradients(rule, T):
    assert_agrees(rule, draw(rule, T=T))


@pytest.mark.parametrize("dtype, T", [(torch.bfloat16, 63), (torch.bfloat16, 129), (torch.float16, 65)])
@pytest.mark.parametrize("rule", RULES)
def test_half_precision_equals_reference(rule, dtype, T):
    assert_agrees(rule, draw(rule, T=T, K=32, V=32, dtype=dtype, wide=["decay"] if T == 63 else []))


@pytest.mark.parametrize("strength", [0.0, 1e-4, 4.0, 30.0])
@pytest.mark.parametrize("rule", RULES)
def test_no_decay_is_too_weak_or_too_strong(rule, strength):
    assert_agrees(rule, draw(rule, T=40, strength=strength))


@pytest.mark.parametrize("rule", RULES)
def test_decays_that_leave_nothing_give_nothing_that_is_not_finite(rule):
    tensors = draw(rule, T=70, strength=1e4)
    tensors["decay"][:, 5] = float("-inf")
    fast, reference = FORMS[rule]
    expected = outputs_and_gradients(reference, {name: x.double() for name, x in tensors.items()})
    for name, actual in outputs_and_gradients(fast, tensors).items():
        assert actual.isfinite().all()
        if name != "gradient of decay":  # next to nothing too, a sum that cancels
            assert relative_error(actual, expected[name]) <= 1e-5, name
        else:
            assert (actual - expected[name]).abs().max() <= 1e-6


@pytest.mark.parametrize("rule", RULES)
def test_strong_decays_among_weak_ones_equal_reference(rule):
    tensors = draw(rule, T=96, strength=0.01)
    forgets = torch.rand(tensors["decay"].shape, generator=torch.Generator().manual_seed(2)) < 0.1
    assert_agrees(rule, tensors | {"decay": tensors["decay"].masked_fill(forgets, -50.0)})


@pytest.mark.parametrize("rule", RULES)
def test_heads_of_a_group_share_queries_and_keys(rule):
    assert_agrees(rule, draw(rule, B=2, T=33, Hk=2, H=4))


@pytest.mark.parametrize("K, V", [(20, 7), (48, 16), (16, 72)])
@pytest.mark.parametrize("rule", RULES)
def test_widths_of_several_tiles_and_of_parts_of_one_equal_reference(rule, K, V):
    assert_agrees(rule, draw(rule, T=35, K=K, V=V))


@pytest.mark.parametrize("rule", RULES)
def test_packed_sequences_equal_reference(rule):
    offsets = torch.tensor([0, 1, 1, 33, 70], dtype=torch.int32)
    assert_agrees(rule, draw(rule, T=70, H=2, N=4), cu_seqlens=offsets)


@pytest.mark.parametrize("rule", RULES)
def test_without_states_equal_reference(rule):
    tensors = draw(rule, T=40)
    del tensors["initial_state"]
    assert_agrees(rule, tensors, output_final_state=False, scale=1.0)


@pytest.mark.parametrize("rule", RULES)
def test_views_without_any_dense_axis_equal_reference(rule):
    tensors = draw(rule, T=20, H=2)
    expected = FORMS[rule][0](**tensors)[0]
    assert relative_error(FORMS[rule][0](**strided(tensors))[0], expected) <= 1e-6


def test_the_strongest_correction_of_one_key_stays_exact():
    tensors = draw("delta", T=64, strength=0.0)
    same = tensors["k"][:, :1].expand_as(tensors["k"])
    assert_agrees("delta", tensors | {"k": same, "beta": torch.full_like(tensors["beta"], 2.0)})


@pytest.mark.parametrize("rule", RULES)
def test_what_the_kernels_have_no_tiles_for_is_refused_in_one_line(rule):
    wide = draw(rule, T=2, K=channel_launch.WIDEST + 1)
    with pytest.raises(ValueError, match="no Triton kernels for a head 129 wide"):
        FORMS[rule][0](**wide)
    with pytest.raises(ValueError, match="no Triton kernels for float64"):
        FORMS[rule][0](**{name: x.double() for name, x in draw(rule, T=2).items()})


@pytest.mark.parametrize("rule", RULES)
def test_the_operator_keeps_the_rules_of_torch_library(rule):
    x = {name: t.requires_grad_() for name, t in draw(rule, T=3, Hk=1, H=2).items()}
    special = (x["a"], x["b"], x["k"], None) if rule == "dplr" else (None, x["k"], None, x["beta"])
    arguments = (x["v"], x["q"], *special, x["decay"], x["initial_state"], None, 0.25, True, True)
    checks = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_static")
    torch.library.opcheck(channel_operator.registered, arguments, test_utils=checks)


@pytest.mark.parametrize("rule", RULES)
def test_compiled_and_checkpointed_gradients_are_the_same(rule):
    tensors, fast = draw(rule, T=5, Hk=1, H=2), FORMS[rule][0]
    expected = outputs_and_gradients(fast, tensors, output_final_state=True)
    compiled = torch.compile(fast, backend="aot_eager", fullgraph=True)
    checkpointed = partial(torch.utils.checkpoint.checkpoint, fast, use_reentrant=False)
    for wrapped in (compiled, checkpointed):
        for name, actual in outputs_and_gradients(wrapped, tensors, output_final_state=True).items():
            assert torch.equal(actual, expected[name]), name


def test_autocast_computes_in_its_dtype():
    tensors = draw("dplr", T=20)
    with torch.autocast("cpu", torch.bfloat16):
        o = FORMS["dplr"][0](**tensors)[0]
    narrow = FORMS["dplr"][0](**tensors | {name: tensors[name].bfloat16() for name in "qkvab"})[0]
    assert o.dtype == torch.float32
    assert torch.equal(o, narrow.float())


def test_one_token_of_dplr_advances_output_and_state_as_the_pytorch_form_does():
    tensors = draw("dplr", B=2, T=1, H=4, Hk=2, K=24, V=20)
    state = tensors.pop("initial_state")
    tensors = {name: x[:, 0] for name, x in tensors.items()}
    ours, exact = state.clone(), state.double()
    o = dplr_step(**tensors, state=ours, backend="triton")
    wide = {name: x.double() for name, x in tensors.items()}
    assert relative_error(o, dplr_step(**wide, state=exact, backend="torch")) <= 1e-6
    assert relative_error(ours, exact) <= 1e-6
