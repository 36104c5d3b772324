"""The normaliser inside the scans: its quotient and all gradients agree with the fp64 reference."""

import pytest
import torch
from hybridlab.kernels import gated_linear_attention, gated_linear_attention_reference

from .compare import DECAY_TOLERANCE, TOLERANCE, Problem, check, errors, inputs

KINDS = ("none", "head", "token")


@pytest.mark.parametrize("kind", [*KINDS, "channel"])
def test_every_kind_agrees(kind: str) -> None:
    check(Problem(kind=kind, normalize=True, T=70))


WIDTHS = pytest.mark.parametrize(("K", "V"), [(64, 64), (128, 128), (64, 24)])


def bfloat16_errors(kind: str, K: int, V: int) -> dict[str, float]:
    p = Problem(kind=kind, dtype=torch.bfloat16, decay="slow", normalize=True, T=130, H=1, Hk=1, K=K, V=V)
    return errors(p)


@WIDTHS
@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_keeps_its_accuracy(kind: str, K: int, V: int) -> None:
    found = bfloat16_errors(kind, K, V)
    for name in ("o", "dq", "dk", "dv", "dinitial_state"):
        assert found[name] <= TOLERANCE[torch.bfloat16], f"{name}: {found[name]:.1e}"
    assert found.get("ddecay", 0.0) <= DECAY_TOLERANCE[torch.bfloat16]


def test_packed_sequences_stay_apart() -> None:
    check(Problem(kind="token", T=150, H=1, Hk=1, normalize=True, cu_seqlens=(0, 1, 34, 98, 150)))


def test_heads_may_share_queries_and_keys() -> None:
    check(Problem(kind="token", T=40, H=4, Hk=2, normalize=True, V=16, dtype=torch.float16))


def test_it_runs_without_an_initial_state() -> None:
    check(Problem(kind="none", T=40, K=48, V=48, normalize=True, state=False))


def test_a_gradient_of_the_final_state_reaches_all_inputs() -> None:
    p = Problem(kind="token", T=80, K=24, V=24, H=1, Hk=1, normalize=True)
    x = inputs(p)

    def gradients(f, tensors):
        leaves = {name: None if t is None else t.clone().requires_grad_() for name, t in tensors.items()}
        o, state = f(**leaves, kind=p.kind, output_final_state=True, normalize=True)
        weights = torch.randn(state.shape, generator=torch.Generator().manual_seed(2)).to(state.dtype)
        ((state * weights).sum() + o.sum()).backward()
        return {name: t.grad for name, t in leaves.items() if t is not None}

    exact = gradients(gated_linear_attention_reference, {n: None if t is None else t.double() for n, t in x.items()})
    ours = gradients(lambda **kwargs: gated_linear_attention(**kwargs, backend="triton"), x)
    for name, gradient in exact.items():
        assert (ours[name].double() - gradient).norm() <= 1e-5 * gradient.norm(), name
