"""Mamba-2's step and skip: the fused kernels, and the operations of their own elsewhere, agree with the reference."""

from typing import Any

import pytest
import torch
from hybridlab.kernels import gated_linear_attention, gated_linear_attention_reference
from hybridlab.kernels.gated_linear_attention import split, triton_op
from torch import Tensor

from .compare import DECAY_TOLERANCE, TOLERANCE, Problem, differentiable, inputs

SHARED = Problem(kind="token", dtype=torch.bfloat16, T=130, H=2, Hk=1, K=32, V=16, decay="slow")


def problem(p: Problem) -> dict[str, Any]:
    g = torch.Generator().manual_seed(3)
    more = {"value_scale": torch.rand(p.B, p.T, p.H, generator=g) / 4, "skip": torch.randn(p.H, generator=g)}
    return {**inputs(p), **more}


def results(f, p: Problem, tensors: dict[str, Any]) -> dict[str, Tensor]:
    leaves = differentiable(p, tensors)
    cu_seqlens = None if p.cu_seqlens is None else torch.tensor(p.cu_seqlens, dtype=torch.int32)
    o, state = f(**leaves, kind=p.kind, output_final_state=True, normalize=p.normalize, cu_seqlens=cu_seqlens)
    g = torch.Generator().manual_seed(1)
    do = torch.randn(*o.shape[:-1], 2 * o.shape[-1], generator=g).to(p.dtype).to(o.dtype)[..., ::2]  # not contiguous
    d_state = torch.randn(state.shape, generator=g).to(state.dtype)
    torch.autograd.backward([o, state], [do, d_state])
    return {
        "o": o,
        "state": state,
        **{f"d{n}": x.grad for n, x in leaves.items() if x is not None and x.grad is not None},
    }


def agree(p: Problem, **changes: Any) -> None:
    x = {**problem(p), **changes}
    ours = results(lambda **kwargs: gated_linear_attention(**kwargs, backend="triton"), p, x)
    double = {n: None if t is None else t.double() for n, t in x.items()}
    for name, exact in results(gated_linear_attention_reference, p, double).items():
        error = float((ours[name].double() - exact).norm() / exact.norm())
        limit = (DECAY_TOLERANCE if name == "ddecay" else TOLERANCE)[p.dtype]
        assert error <= limit, f"{name}: {error:.1e}"


@pytest.mark.parametrize("kind", ["none", "head", "token"])
@pytest.mark.parametrize("fixed", [False, True])
def test_heads_that_share_keys_have_both_in_their_kernels(kind: str, fixed: bool) -> None:
    agree(Problem(**{**vars(SHARED), "kind": kind, "B": 2, "fixed": fixed}))


@pytest.mark.parametrize("missing", ["value_scale", "skip"])
def test_each_goes_alone(missing: str) -> None:
    agree(SHARED, **{missing: None})


def test_packed_sequences_stay_apart() -> None:
    agree(Problem(**{**vars(SHARED), "T": 150, "cu_seqlens": (0, 1, 34, 98, 150)}))


@pytest.mark.parametrize("short", [0, 16], ids=["states passed on", "scanned again"])
def test_a_sequence_split_along_time_gives_the_same(short: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(split, "multiprocessors", lambda device: 6)
    monkeypatch.setattr(split, "SHORTEST", 1)
    monkeypatch.setattr(split, "SHORT", short)
    agree(SHARED)


@pytest.mark.parametrize("kind", ["token", "channel"])
def test_other_heads_have_them_outside(kind: str) -> None:
    agree(Problem(kind=kind, T=40))


def test_the_normaliser_may_come_with_them() -> None:
    agree(Problem(kind="token", T=40, normalize=True))


def test_opcheck_passes() -> None:
    p = Problem(**{**vars(SHARED), "T": 20})
    x = {n: t.requires_grad_() for n, t in problem(p).items() if t is not None}
    arguments = (x["q"], x["k"], x["v"], x["decay"], p.kind, None, 0.25, x["initial_state"], True, None, False)
    torch.library.opcheck(
        triton_op._forward,
        (*arguments, x["value_scale"], x["skip"]),
        test_utils=("test_schema", "test_faketensor", "test_autograd_registration"),
    )


def test_the_operator_gives_the_same_gradients_as_the_eager_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    agree(SHARED)
