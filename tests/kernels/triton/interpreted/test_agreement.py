"""The kernels agree with the fp64 reference, in value and gradient."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from .compare import Problem, check, errors

KINDS = ("none", "head", "token", "channel")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_agrees(kind: str, dtype: torch.dtype) -> None:
    check(Problem(kind=kind, dtype=dtype, T=130, decay="slow"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("decay", ["usual", "extreme", "uniform", "heavy"])
@pytest.mark.parametrize("kind", ["token", "channel"])
def test_no_decay_is_too_strong(kind: str, decay: str, dtype: torch.dtype) -> None:
    check(Problem(kind=kind, dtype=dtype, decay=decay, T=70, state=False))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("decay", ["slow", "heavy"])
def test_bonus_agrees(decay: str, dtype: torch.dtype) -> None:
    check(Problem(kind="channel", bonus=True, dtype=dtype, decay=decay, T=70))


def test_bonus_goes_with_a_scalar_decay_too() -> None:
    check(Problem(kind="head", bonus=True, T=40))


@pytest.mark.parametrize("T", [1, 63, 64, 65])
@pytest.mark.parametrize("kind", ["none", "channel"])
def test_every_length_agrees(kind: str, T: int) -> None:
    check(Problem(kind=kind, T=T))


@pytest.mark.parametrize("kind", KINDS)
def test_packed_sequences_stay_apart(kind: str) -> None:
    check(Problem(kind=kind, T=150, H=1, Hk=1, cu_seqlens=(0, 1, 34, 98, 150)))


@pytest.mark.parametrize("kind", ["token", "channel"])
def test_heads_share_queries_and_keys(kind: str) -> None:
    check(Problem(kind=kind, T=40, H=4, Hk=2))


@pytest.mark.parametrize("kind", ["none", "head", "token"])
def test_heads_that_share_queries_and_keys_may_be_taken_together(kind: str) -> None:
    check(Problem(kind=kind, T=130, H=4, Hk=2, V=16, dtype=torch.bfloat16, decay="slow"))


def test_packed_sequences_of_heads_taken_together_stay_apart() -> None:
    check(Problem(T=150, H=2, Hk=1, V=16, dtype=torch.bfloat16, cu_seqlens=(0, 1, 34, 98, 150)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
@pytest.mark.parametrize("kind", ["head", "token"])
@pytest.mark.parametrize("Hk", [4, 2], ids=["alone", "together"])
@pytest.mark.parametrize("cu_seqlens", [None, (0, 1, 34, 98, 130)], ids=["whole", "packed"])
def test_a_decay_may_be_fixed(kind: str, Hk: int, dtype: torch.dtype, cu_seqlens: tuple[int, ...] | None) -> None:
    p = Problem(kind, T=130, H=4, Hk=Hk, V=16, dtype=dtype, decay="slow", cu_seqlens=cu_seqlens, fixed=True)
    check(p)
    assert "ddecay" not in errors(p)


@pytest.mark.parametrize("kind", ["token", "channel"])
def test_float16_agrees(kind: str) -> None:
    check(Problem(kind=kind, dtype=torch.float16))


@pytest.mark.parametrize("bonus", [False, True])
@pytest.mark.parametrize("decay", ["uniform", "extreme"])
def test_fast_decays_per_channel_do_not_overflow_float16(decay: str, bonus: bool) -> None:
    check(Problem(kind="channel", dtype=torch.float16, decay=decay, bonus=bonus, T=70))


@pytest.mark.parametrize(("K", "V"), [(16, 60), (60, 100), (100, 20)])
def test_odd_widths_agree(K: int, V: int) -> None:
    check(Problem(kind="token", dtype=torch.bfloat16, T=66, H=1, Hk=1, K=K, V=V))


@settings(max_examples=8, deadline=None, derandomize=True)
@given(
    kind=st.sampled_from(KINDS),
    B=st.integers(1, 2),
    T=st.integers(1, 80),
    K=st.integers(16, 40),
    V=st.integers(16, 70),
    decay=st.sampled_from(["usual", "extreme"]),
)
def test_any_shape_agrees(kind: str, B: int, T: int, K: int, V: int, decay: str) -> None:
    check(Problem(kind=kind, B=B, T=T, H=1, Hk=1, K=K, V=V, decay=decay))
