"""The Triton kernels of the delta rule, without decay and with one that all channels share, give what the reference
gives.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hybridlab.kernels import delta_rule, delta_rule_reference, delta_rule_step
from hybridlab.kernels.delta_rule import scalar_launch
from hybridlab.kernels.delta_rule.scalar_triton import scalar_operator

from ...agreement import outputs_and_gradients, strided
from ...tolerances import relative_error

TOLERANCE = {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 6e-3}
OF_SUMS = ("gradient of decay", "gradient of beta")  # sums of differences: twice as much
KERNELS = partial(delta_rule, backend="triton")
SEEDS = {"none": 0, "head": 1, "token": 2}


def draw(kind="token", *, B=1, T=65, H=2, Hk=2, K=16, V=16, beta=1.0, dtype=torch.float32, state=True, N=None) -> dict:
    """Random arguments as models have them: keys and queries of norm 1, beta up to `beta`, decays of about 0.3."""
    generator = torch.Generator().manual_seed(SEEDS[kind])

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    q, k = (F.normalize(normal(B, T, Hk, K), dim=-1) for _ in range(2))
    wide: dict[str, Any] = {"q": q.to(dtype), "k": k.to(dtype), "v": normal(B, T, H, V).to(dtype)}
    wide["beta"] = beta * normal(B, T, H).sigmoid()
    if kind != "none":
        wide["decay"] = F.logsigmoid(2 * normal(*((H,) if kind == "head" else (B, T, H))) + 2)
    return wide | ({"initial_state": normal(N or B, H, K, V)} if state else {})


def errors(tensors: dict[str, torch.Tensor], **options: Any) -> dict[str, float]:
    options = {"output_final_state": True, **options}
    expected = outputs_and_gradients(delta_rule_reference, {n: x.double() for n, x in tensors.items()}, **options)
    actual = outputs_and_gradients(KERNELS, tensors, **options)
    return {name: relative_error(actual[name], expected[name]) for name in expected}


def assert_agrees(tensors: dict[str, torch.Tensor], slack: float = 1.0, **options: Any) -> None:
    limit = slack * TOLERANCE[tensors["v"].dtype]
    for name, error in errors(tensors, **options).items():
        assert error <= limit * (2 if name in OF_SUMS else 1), f"{name}: {error:.1e}"


@pytest.mark.parametrize("T", [1, 31, 32, 65])
@pytest.mark.parametrize("kind", ["none", "head", "token"])
def test_kernels_equal_reference_in_value_state_and_gradients(kind, T):
    assert_agrees(draw(kind, T=T))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kind, T", [("none", 65), ("token", 63), ("token", 129)])
def test_sixteen_bit_kernels_equal_reference(kind, T, dtype):
    assert_agrees(draw(kind, T=T, K=32, V=32, dtype=dtype))


@pytest.mark.parametrize("K, V", [(16, 80), (24, 7), (80, 40), (130, 16)])
def test_widths_that_are_no_powers_of_two_equal_reference(K, V):
    assert_agrees(draw(K=K, V=V, T=33))
    assert_agrees(draw(K=K, V=V, T=33, dtype=torch.float16))


def test_scans_in_narrow_blocks_where_heads_are_few_equal_reference(monkeypatch):
    monkeypatch.setattr(scalar_launch, "multiprocessors", lambda device: 1000)
    assert_agrees(draw(K=16, V=80, T=66, dtype=torch.float16))


def test_heads_that_share_keys_equal_reference():
    assert_agrees(draw(H=4, Hk=2, B=2, T=40))


@pytest.mark.parametrize("kind", ["none", "head", "token"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_packed_sequences_equal_reference(kind, dtype):
    offsets = torch.tensor([0, 3, 3, 67, 70], dtype=torch.int32)
    assert_agrees(draw(kind, T=70, N=4, dtype=dtype), cu_seqlens=offsets)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_negative_eigenvalues_equal_reference(dtype):
    """Nothing is forgotten where eigenvalues reach −1, nor is what was rounded."""
    assert_agrees(draw("none", beta=2.0, T=100, dtype=dtype), slack=2.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_tokens_that_write_nothing_still_have_a_gradient_of_beta(dtype):
    tensors = draw(T=40, dtype=dtype)
    tensors["beta"][:, ::3] = 0.0
    assert_agrees(tensors)


@pytest.mark.parametrize("beta", [1.0, 2.0])
def test_a_token_repeated_all_over_is_inverted_stably(beta):
    """One key, beta up to 2: entries of the inverse stay at 2 where those of the triangle's powers pass 10^17.

    At 2 the state only turns its sign, so that nothing rounded is ever forgotten.
    """
    tensors = draw("none", T=96, state=False)
    tensors |= {"k": tensors["k"][:, :1].expand_as(tensors["k"]).contiguous(), "beta": torch.full((1, 96, 2), beta)}
    worst = errors(tensors)
    assert max(worst.values()) <= (1e-5 if beta == 1.0 else 1e-4), worst


@pytest.mark.parametrize("decay", [0.0, -1e-6, -30.0, -200.0])
def test_no_decay_is_too_weak_or_too_strong(decay):
    """Where decays leave next to nothing their own gradient is next to nothing too."""
    tensors = draw(T=40)
    tensors["decay"] = torch.where(torch.rand(1, 40, 2, generator=torch.Generator().manual_seed(0)) < 0.5, decay, -0.1)
    assert_agrees(tensors)


def test_views_without_any_dense_axis_equal_reference():
    tensors = draw(T=40)
    expected = KERNELS(**tensors)[0]
    assert relative_error(KERNELS(**strided(tensors))[0], expected) <= 1e-6


def test_a_sequence_continues_from_the_state_of_its_beginning():
    tensors = draw(T=50)
    whole, final = KERNELS(**tensors, output_final_state=True)
    parts, state = [], tensors["initial_state"]
    for span in (slice(0, 33), slice(33, 34), slice(34, 50)):
        part = {name: x[:, span] for name, x in tensors.items() if name != "initial_state"}
        y, state = KERNELS(**part, initial_state=state, output_final_state=True)
        parts.append(y)
    assert final is not None
    assert state is not None
    assert relative_error(torch.cat(parts, 1), whole) <= 1e-5
    assert relative_error(state, final) <= 1e-5


def test_an_output_without_gradients_is_the_same_and_keeps_nothing():
    tensors = draw(T=40)
    expected = KERNELS(**{name: x.requires_grad_() for name, x in tensors.items()})[0].detach()
    with torch.no_grad():
        assert torch.equal(KERNELS(**tensors)[0], expected)
        _, _, _, written, states = scalar_operator(*arguments(tensors), False)
    assert written.numel() == states.numel() == 0


def test_only_the_gradient_of_the_final_state_is_enough():
    tensors = {name: x.requires_grad_() for name, x in draw(T=40).items()}
    gradients = []
    for form in (KERNELS, partial(delta_rule, backend="torch")):
        _, state = form(**tensors, output_final_state=True)
        assert state is not None
        gradients.append(torch.autograd.grad(state.square().sum(), list(tensors.values()), allow_unused=True))
    for name, ours, exact in zip(tensors, *gradients, strict=True):
        assert relative_error(ours, torch.zeros_like(ours) if exact is None else exact) <= 1e-5, name


@pytest.mark.parametrize("change", [{"K": 300}, {"V": 260}], ids=str)
def test_what_the_kernels_do_not_hold_is_computed_by_the_pytorch_form(change):
    tensors = draw(T=5, **change)
    assert torch.equal(KERNELS(**tensors)[0], delta_rule(**tensors, backend="torch")[0])


def test_float64_is_computed_by_the_pytorch_form():
    tensors = {name: x.double() for name, x in draw(T=5).items()}
    assert torch.equal(KERNELS(**tensors)[0], delta_rule(**tensors, backend="torch")[0])


def arguments(tensors: dict[str, torch.Tensor]) -> tuple[Any, ...]:
    named = (tensors[name] for name in ("v", "q", "k", "beta", "decay", "initial_state"))
    return (*named, None, "token", 0.25, True)


def test_the_operator_keeps_the_rules_of_torch_library():
    tensors = {name: x.requires_grad_() for name, x in draw(T=3, H=1, Hk=1).items()}
    checks = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_static")
    torch.library.opcheck(scalar_operator.registered, (*arguments(tensors), True), test_utils=checks)


def test_compiled_and_checkpointed_gradients_are_the_same():
    tensors = draw(T=5, H=2, Hk=1)
    expected = outputs_and_gradients(KERNELS, tensors, output_final_state=True)
    compiled = torch.compile(KERNELS, backend="aot_eager", fullgraph=True)
    checkpointed = partial(torch.utils.checkpoint.checkpoint, KERNELS, use_reentrant=False)
    for wrapped in (compiled, checkpointed):
        for name, actual in outputs_and_gradients(wrapped, tensors, output_final_state=True).items():
            assert torch.equal(actual, expected[name]), name


def test_autocast_computes_in_its_dtype():
    tensors = draw(T=20, state=False)
    with torch.autocast("cpu", torch.bfloat16):
        o = KERNELS(**tensors)[0]
    narrow = KERNELS(**tensors | {name: tensors[name].bfloat16() for name in "qkv"})[0]
    assert o.dtype == torch.float32
    assert torch.equal(o, narrow.float())


@pytest.mark.parametrize("kind", ["none", "head", "token", "channel"])
def test_one_token_advances_output_and_state_as_the_pytorch_form_does(kind):
    tensors = draw("none" if kind == "channel" else kind, B=2, T=1, H=4, Hk=2, K=24, V=20)
    tensors = {name: x if x.ndim == 1 or name == "initial_state" else x[:, 0] for name, x in tensors.items()}
    if kind == "channel":
        tensors["decay"] = -torch.rand(2, 4, 24)
    state = tensors.pop("initial_state")
    ours, exact = state.clone(), state.double()
    o = delta_rule_step(**tensors, state=ours, backend="triton")
    wide = {name: x.double() for name, x in tensors.items()}
    assert relative_error(o, delta_rule_step(**wide, state=exact, backend="torch")) <= 1e-6
    assert relative_error(ours, exact) <= 1e-6


def test_one_token_of_a_state_in_another_precision_is_refused_by_the_kernel():
    tensors = {name: x[:, 0] for name, x in draw(T=1, state=False).items()}
    with pytest.raises(ValueError, match="delta_rule_step has no Triton kernels"):
        delta_rule_step(**tensors, state=torch.zeros(1, 2, 16, 16).double(), backend="triton")
