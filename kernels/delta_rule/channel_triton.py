"""The delta rule with a decay per channel, and dplr, as one differentiable operator computed by Triton kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from ..operator import Operator
from .channel_launch import DTYPES, WIDEST, Inputs, Solved, empty_solved
from .channel_passes import run_backward, run_forward

Fourteen = tuple[
    Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor
]


def compute_type(*tensors: Tensor) -> torch.dtype:
    """Under autocast its dtype, else the widest of the tensors'."""
    device = tensors[0].device.type
    if torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    dtype = tensors[0].dtype
    for x in tensors[1:]:
        dtype = torch.promote_types(dtype, x.dtype)
    return dtype


def lacking(*tensors: Tensor) -> str | None:
    """Why the kernels cannot take these queries, keys and values, in a few words; None if they can."""
    dtype, widest = compute_type(*tensors), max(x.shape[-1] for x in tensors)
    if dtype not in DTYPES:
        return f"{str(dtype)[6:]} (bfloat16, float16 or float32 is right)"
    return f"a head {widest} wide (at most {WIDEST} is right)" if widest > WIDEST else None


def delta_rule_channel_triton(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    decay: Tensor,
    scale: float,
    initial_state: Tensor | None,
    output_final_state: bool,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor | None]:
    """`delta_rule` with a decay per channel, for arguments already checked that `lacking` says nothing against."""
    dtype = compute_type(q, k, v)
    return _run(
        v, dtype, q.to(dtype), None, k.to(dtype), None, beta, decay, initial_state, cu_seqlens, scale,
        output_final_state,
    )  # fmt: skip


def dplr_triton(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    decay: Tensor,
    scale: float,
    initial_state: Tensor | None,
    output_final_state: bool,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor | None]:
    """`dplr` for arguments already checked that `lacking` says nothing against."""
    dtype = compute_type(q, k, v, a, b)
    q, a, b, k = (x.to(dtype) for x in (q, a, b, k))
    return _run(v, dtype, q, a, b, k, None, decay, initial_state, cu_seqlens, scale, output_final_state)


def _run(
    v: Tensor, dtype: torch.dtype, q: Tensor, a: Tensor | None, b: Tensor, k: Tensor | None, beta: Tensor | None,
    decay: Tensor, initial_state: Tensor | None, cu_seqlens: Tensor | None, scale: float, output_final_state: bool,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    if initial_state is not None:
        initial_state = initial_state.float().contiguous()
    if cu_seqlens is not None:
        cu_seqlens = cu_seqlens.int()
    tensors = (v.to(dtype), q, a, b, k, beta, decay, initial_state)
    keep = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)
    o, state, *_ = channel_operator(*tensors, cu_seqlens, scale, output_final_state, keep)
    return o.to(v.dtype), state if output_final_state else None


def _dense(x: Tensor | None) -> Tensor | None:
    return x if x is None or x.stride(-1) == 1 else x.contiguous()


def _inputs(
    v: Tensor, q: Tensor, a: Tensor | None, b: Tensor, k: Tensor | None, beta: Tensor | None, decay: Tensor,
    scale: float, cu_seqlens: Tensor | None,
) -> Inputs:  # fmt: skip
    q, a, b, k, v, decay = (_dense(x) for x in (q, a, b, k, v, decay))  # pyright: ignore[reportAssignmentType]
    return Inputs(q, a, b, k, v, beta, decay, scale, cu_seqlens)


def _run_forward(
    v: Tensor, q: Tensor, a: Tensor | None, b: Tensor, k: Tensor | None, beta: Tensor | None, decay: Tensor,
    initial_state: Tensor | None, cu_seqlens: Tensor | None, scale: float, output_final_state: bool, keep: bool,
) -> Fourteen:  # fmt: skip
    """o, the final states (empty unless asked for), and `Solved` (empty what is not, or unless kept)."""
    x = _inputs(v, q, a, b, k, beta, decay, scale, cu_seqlens)
    o, state, solved = run_forward(x, initial_state, output_final_state)
    return o, _or_empty(state, v), *(_or_empty(t if keep else None, v) for t in solved)  # pyright: ignore[reportReturnType]


def _fake_forward(v, q, a, b, k, beta, decay, initial_state, cu_seqlens, scale, output_final_state, keep):
    x = Inputs(q, a, b, k, v, beta, decay, scale, cu_seqlens)
    shape = (x.sequences, v.shape[2], q.shape[3], v.shape[3]) if output_final_state else (0,)
    o, state = torch.empty(v.shape, dtype=v.dtype, device=v.device), v.new_empty(shape, dtype=torch.float32)
    return o, state, *(_or_empty(t if keep else None, v) for t in empty_solved(x))


def _run_backward(
    do: Tensor, d_final: Tensor | None, v: Tensor, q: Tensor, a: Tensor | None, b: Tensor, k: Tensor | None,
    beta: Tensor | None, decay: Tensor, initial_state: Tensor | None, cu_seqlens: Tensor | None,
    s_q: Tensor, s_a: Tensor, s_b: Tensor, inverse: Tensor, q_b: Tensor, u: Tensor, states: Tensor, total: Tensor,
    lean: Tensor, s_k: Tensor, a_k: Tensor, q_k: Tensor, scale: float, output_final_state: bool, keep: bool,
) -> tuple[Tensor | None, ...]:  # fmt: skip
    """Gradients of v, q, a, b, k, beta, decay and the initial state; None without such an input."""
    x = _inputs(v, q, a, b, k, beta, decay, scale, cu_seqlens)
    extra = (s_k, a_k, q_k) if k is not None else (None, None, None)
    solved = Solved(s_q, s_a, s_b, inverse, q_b, u, states, total, lean, *extra)
    do = do if do.stride(-1) == 1 else do.contiguous()
    d = run_backward(x, initial_state, do, d_final.contiguous() if d_final is not None else None, solved)
    of_heads = (t.unflatten(2, (q.shape[2], x.group)).sum(3) if t is not None and x.group > 1 else t for t in d[:4])
    return d.v, *of_heads, d.beta, d.decay, d.initial


def _or_empty(x: Tensor | None, like: Tensor) -> Tensor:
    return x if x is not None else like.new_empty(0)


def _flops(v, q, a, *_):
    """What is read, what is written (dplr writes twice), what a query reads: of every head's state, token by token."""
    return (6 if a is None else 8) * v.numel() * q[-1]


channel_operator = Operator(
    "delta_rule_channel", _run_forward, _run_backward, fake=_fake_forward, tensors=9, learned=8, outputs=2, flops=_flops
)
"""The delta rule (a and k None, b its keys) and dplr (beta None)."""
