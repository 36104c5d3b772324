"""The kernels are an operator like PyTorch's own: torch.library, torch.compile's tracing, autocast, checkpointing,
strides.
"""

import pytest
import torch
from hybridlab.kernels import gated_linear_attention
from hybridlab.kernels.gated_linear_attention import split, triton_op
from hybridlab.kernels.gated_linear_attention.launch import Inputs
from torch.utils.checkpoint import checkpoint

from .compare import Problem, check, inputs


def call(x: dict, **kwargs) -> torch.Tensor:
    return gated_linear_attention(**x, **kwargs, backend="triton")[0]


@pytest.mark.parametrize(("kind", "normalize"), [("token", False), ("channel", False), ("token", True)])
def test_opcheck_passes(kind: str, normalize: bool) -> None:
    x = inputs(Problem(kind=kind, T=20, H=1, Hk=1, K=16, V=16, normalize=normalize))
    tensors = [x[name].requires_grad_() for name in ("q", "k", "v", "decay")]
    arguments = (*tensors, kind, None, 1.0, x["initial_state"].requires_grad_(), True, None, normalize, None, None)
    torch.library.opcheck(
        triton_op._forward, arguments, test_utils=("test_schema", "test_faketensor", "test_autograd_registration")
    )


def test_the_operator_and_the_eager_path_give_the_same_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    check(Problem(kind="channel", T=40))
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    check(Problem(kind="channel", T=40))
    check(Problem(kind="token", T=40))
    check(Problem(kind="token", T=40, normalize=True))


def test_strided_inputs_are_read_where_they_lie() -> None:
    qkv = torch.randn(1, 50, 3, 2, 32)
    q, k, v = qkv.unbind(2)
    expected = call({"q": q.contiguous(), "k": k.contiguous(), "v": v.contiguous()})
    assert torch.equal(call({"q": q, "k": k, "v": v}), expected)
    assert triton_op.aligned(q) is q


def test_autocast_computes_in_its_dtype() -> None:
    x = inputs(Problem(kind="token", T=30, state=False))
    with torch.autocast("cpu", torch.bfloat16):
        o = call(x)
    bf16 = call({**x, **{n: x[n].bfloat16() for n in "qkv"}})
    assert o.dtype == torch.float32
    assert torch.equal(o, bf16.float())


def test_checkpointing_gives_the_same_gradients() -> None:
    x = inputs(Problem(kind="channel", T=30, state=False))
    q = x["q"].requires_grad_()
    plain = torch.autograd.grad(call(x).sum(), q)[0]
    again = torch.autograd.grad(checkpoint(lambda q: call({**x, "q": q}), q, use_reentrant=False).sum(), q)[0]
    assert torch.equal(plain, again)


@pytest.mark.parametrize(
    ("kind", "normalize"), [("none", False), ("token", False), ("channel", False), ("none", True), ("token", True)]
)
def test_a_sequence_split_along_time_gives_the_same(
    kind: str, normalize: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(split, "multiprocessors", lambda device: 6)
    monkeypatch.setattr(split, "SHORTEST", 1)
    monkeypatch.setattr(split, "SHORT", 0)
    check(Problem(kind=kind, T=150, normalize=normalize))


@pytest.mark.parametrize("kind", ["none", "head", "token", "channel"])
@pytest.mark.parametrize(("multiprocessors", "count"), [(12, 6), (4, 3)], ids=["one chunk each", "two chunks each"])
@pytest.mark.parametrize("width", [20, 70])
def test_segments_that_scan_again_what_came_before_give_the_same(
    kind: str, multiprocessors: int, count: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(split, "multiprocessors", lambda device: multiprocessors)
    p = Problem(kind, T=330, H=1, Hk=1, K=width, V=60, dtype=torch.bfloat16)
    x = inputs(p)
    cut = split.cut(Inputs(x["q"], x["k"], x["v"], x["decay"], p.kind, None, 1.0, None))
    assert cut.ahead > 0
    assert cut.count == count
    check(p)
