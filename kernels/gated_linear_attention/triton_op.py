"""Gated linear attention as one differentiable operator of PyTorch, computed by the Triton kernels.

Registered with torch.library, so that torch.compile, autocast and activation checkpointing see an operator like any
other.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps

import torch
from torch import Tensor

from ..flops import count_flops, dispatched
from .arguments import Kind
from .channel import empty_weighted, run_channel_backward, run_channel_forward
from .chunked import gated_linear_attention_chunked
from .groups import fused, run_group_backward, taken
from .launch import Inputs, aligned, empty_rows
from .scans import Weighted, run_backward, run_forward
from .value_scale import scaled, with_skip

WIDEST = 256  # the widest keys and values that the kernels have tiles for
DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def gated_linear_attention_triton(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    decay: Tensor | None,
    kind: Kind,
    bonus: Tensor | None,
    scale: float,
    initial_state: Tensor | None,
    output_final_state: bool,
    normalize: bool,
    cu_seqlens: Tensor | None,
    value_scale: Tensor | None = None,
    skip: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """`gated_linear_attention` for arguments already checked and with `kind` and `scale` resolved.

    Under autocast q, k and v are first cast to its dtype, else to the widest of theirs. Two cases are cast to float32,
    for gradients that in 16 bits all but cancel: both a normaliser and a decay (those of q and of the decay are
    differences), and a decay per head that is learned (one number sums over all tokens). What the kernels have no tiles
    for (float64, widths above 256) is computed by the PyTorch form. A decay per channel has the normaliser as a column
    of ones in v and divides afterwards; the others have it inside the scans (`normaliser`).
    """
    dtype = torch.get_autocast_dtype(v.device.type) if torch.is_autocast_enabled(v.device.type) else None
    dtype = dtype or torch.promote_types(torch.promote_types(q.dtype, k.dtype), v.dtype)
    learned_per_head = kind == "head" and decay is not None and decay.requires_grad
    if learned_per_head or (normalize and kind != "none"):
        dtype = torch.promote_types(dtype, torch.float32)
    per_channel = kind == "channel" or bonus is not None
    if dtype not in DTYPES or max(q.shape[-1], v.shape[-1] + (normalize and per_channel)) > WIDEST:
        arguments = (q, k, v, decay, kind, bonus, scale, initial_state, output_final_state, normalize, cu_seqlens)
        o, state = gated_linear_attention_chunked(q, k, scaled(v, value_scale), *arguments[3:])
        return with_skip(o, v, skip), state
    out_dtype = v.dtype
    q, k, v = q.to(dtype), k.to(dtype), v.to(dtype)
    if value_scale is not None or skip is not None:
        x = Inputs(q, k, v, decay, kind, bonus, scale, cu_seqlens)
        if per_channel or normalize or not fused(x):
            arguments = (decay, kind, bonus, scale, initial_state, output_final_state, normalize, cu_seqlens)
            o, state = gated_linear_attention_triton(q, k, scaled(v, value_scale), *arguments)
            return with_skip(o, v, skip).to(out_dtype), state
        value_scale, skip = (None if x is None else x.float().contiguous() for x in (value_scale, skip))
    if normalize:
        scale = 1.0
    if normalize and per_channel:
        v = torch.cat([v, torch.ones_like(v[..., :1])], dim=-1)
    if bonus is not None and kind != "channel":
        decay, kind = _per_channel(decay, kind, q.shape[-1], v), "channel"
    if initial_state is not None:
        initial_state = initial_state.float().contiguous()
    if cu_seqlens is not None:
        cu_seqlens = cu_seqlens.int()
    run = _forward if dispatched(v) else _Eager.apply
    inside = normalize and not per_channel
    state_arguments = (initial_state, output_final_state, cu_seqlens)
    o, state, *_ = run(q, k, v, decay, kind, bonus, scale, *state_arguments, inside, value_scale, skip)
    if normalize and per_channel:
        o = o[..., :-1] / o[..., -1:]
    return o.to(out_dtype), state if output_final_state else None


def _per_channel(decay: Tensor | None, kind: Kind, K: int, v: Tensor) -> Tensor:
    """A scalar decay as one per channel [B, T, H, K]."""
    B, T, H, _ = v.shape
    if decay is None:
        return v.new_zeros(()).expand(B, T, H, K).contiguous()
    return (decay if kind == "token" else decay.expand(B, T, H))[..., None].expand(B, T, H, K).contiguous()


def _inputs(
    q: Tensor, k: Tensor, v: Tensor, decay: Tensor | None, kind: str, bonus: Tensor | None, scale: float,
    cu_seqlens: Tensor | None, normalize: bool, value_scale: Tensor | None, skip: Tensor | None,
) -> Inputs:  # fmt: skip
    if kind == "channel" and decay is not None:
        decay = aligned(decay)
    more = {"normalize": normalize, "value_scale": value_scale, "skip": skip}
    return Inputs(aligned(q), aligned(k), aligned(v), decay, kind, bonus, scale, cu_seqlens, **more)  # pyright: ignore


def _run_forward(
    q: Tensor, k: Tensor, v: Tensor, decay: Tensor | None, kind: str, bonus: Tensor | None, scale: float,
    initial_state: Tensor | None, output_final_state: bool, cu_seqlens: Tensor | None, normalize: bool,
    value_scale: Tensor | None, skip: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """o, the final states, the inverse of the normaliser [B, T, H] and `Weighted`; None unless asked for, with one, or
    with a decay per channel.
    """
    x = _inputs(q, k, v, decay, kind, bonus, scale, cu_seqlens, normalize, value_scale, skip)
    if kind == "channel":
        o, state, w = run_channel_forward(x, initial_state, output_final_state)
        return o, state, None, w.q, w.k, w.scores, w.total, w.lean  # pyright: ignore[reportReturnType]
    return *run_forward(x, initial_state, output_final_state), None, None, None, None, None  # pyright: ignore


def _returning_tensors(run: Callable[..., tuple[Tensor | None, ...]]) -> Callable[..., tuple[Tensor, ...]]:
    """`run` for torch.library, whose operators return tensors alone: an empty one in the place of None."""

    @wraps(run)
    def filled(*arguments):
        outputs = run(*arguments)
        return tuple(_or_empty(x, outputs[0]) for x in outputs)  # pyright: ignore[reportArgumentType]

    return filled


_forward = torch.library.custom_op(
    "hybridlab::gated_linear_attention", _returning_tensors(_run_forward), mutates_args=()
)


@_forward.register_fake
def _(q, k, v, decay, kind, bonus, scale, initial_state, output_final_state, cu_seqlens, normalize, value_scale, skip):
    sequences = v.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    shape = (sequences, v.shape[2], q.shape[3], v.shape[3] + normalize) if output_final_state else (0,)
    o, state = _like(v), v.new_empty(shape, dtype=torch.float32)
    inverse = v.new_empty(v.shape[:3] if normalize else (0,), dtype=torch.float32)
    if kind != "channel":
        return o, state, inverse, *(_or_empty(None, v) for _ in range(5))
    w = empty_weighted(Inputs(q, k, v, decay, kind, bonus, scale, cu_seqlens))
    return o, state, inverse, w.q, w.k, w.scores, w.total, w.lean


@count_flops(_forward)
def _forward_flops(q, k, v, decay, kind, bonus, scale, initial_state, output_final_state, cu_seqlens, normalize, *_):
    B, T, H, V = v
    return 4 * B * T * H * q[-1] * (V + normalize)


def _run_backward(
    do: Tensor, d_final: Tensor | None, q: Tensor, k: Tensor, v: Tensor, decay: Tensor | None, kind: str,
    bonus: Tensor | None, scale: float, initial_state: Tensor | None, cu_seqlens: Tensor | None, normalize: bool,
    value_scale: Tensor | None, skip: Tensor | None, want_decay: bool, o: Tensor | None, kept: list[Tensor],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of q, k, v, decay, bonus, the initial state, value_scale and skip; None without such an input or if
    unwanted.
    """
    x = _inputs(q, k, v, decay, kind, bonus, scale, cu_seqlens, normalize, value_scale, skip)
    only_by_groups = value_scale is not None or skip is not None
    do, d_bonus = aligned(do.contiguous() if only_by_groups else do), None
    d_scale = d_skip = None
    if d_final is not None:
        d_final = d_final.contiguous()
    if kind == "channel":
        dq, dk, dv, d_decay, d_bonus, d_initial = run_channel_backward(
            x, initial_state, do, d_final, Weighted(*kept[1:])
        )
    elif taken(x, do):
        dq, dk, dv, d_decay, d_initial, d_scale, d_skip = run_group_backward(x, initial_state, do, d_final, want_decay)
    else:
        quotient = (o, kept[0]) if o is not None else None
        dq, dk, dv, d_decay, d_initial = run_backward(x, initial_state, do, d_final, want_decay, None, quotient)
    if kind == "head" and d_decay is not None:
        d_decay = d_decay.sum((0, 1))
    if dq.shape != q.shape:
        dq, dk = (d.unflatten(2, (q.shape[2], x.group)).sum(3) for d in (dq, dk))
    if d_decay is not None and decay is not None:
        d_decay = d_decay.to(decay.dtype)
    if d_bonus is not None and bonus is not None:
        d_bonus = d_bonus.to(bonus.dtype)
    return dq, dk, dv, d_decay, d_bonus, d_initial, d_scale, d_skip  # pyright: ignore[reportReturnType]


_backward = torch.library.custom_op(
    "hybridlab::gated_linear_attention_backward", _returning_tensors(_run_backward), mutates_args=()
)


@_backward.register_fake
def _(
    do, d_final, q, k, v, decay, kind, bonus, scale, initial_state, cu_seqlens, normalize, value_scale, skip,
    want_decay, o, kept,
):  # fmt: skip
    grouped = q.shape[2] != v.shape[2]
    dq, dk = (_contiguous_like(q) if grouped else _like(q) for _ in range(2))
    d_decay = _contiguous_like(decay) if want_decay else _or_empty(None, v)
    if want_decay and kind == "channel":
        d_decay = _like(decay)
    d_bonus = _contiguous_like(bonus) if bonus is not None else _or_empty(None, v)
    d_initial = _contiguous_like(initial_state) if initial_state is not None else _or_empty(None, v)
    d_scale, d_skip = (_contiguous_like(x) if x is not None else _or_empty(None, v) for x in (value_scale, skip))
    return dq, dk, _like(v), d_decay, d_bonus, d_initial, d_scale, d_skip


@count_flops(_backward)
def _backward_flops(do, d_final, q, k, v, decay, kind, bonus, scale, initial_state, cu_seqlens, normalize, *_):
    return 2 * _forward_flops(q, k, v, decay, kind, bonus, scale, initial_state, False, cu_seqlens, normalize)


def _like(x: Tensor) -> Tensor:
    return empty_rows(x.shape, x.dtype, x.device)


def _contiguous_like(x: Tensor) -> Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


def _or_empty(x: Tensor | None, like: Tensor) -> Tensor:
    return x if x is not None else like.new_empty(0, dtype=torch.float32)


def _save(ctx, inputs, output) -> None:
    q, k, v, decay, kind, bonus, scale, initial_state, output_final_state, cu_seqlens, normalize, value_scale, skip = (
        inputs
    )
    o = output[0] if normalize else None
    ctx.save_for_backward(q, k, v, decay, bonus, initial_state, cu_seqlens, value_scale, skip, o, *output[2:])
    ctx.kind, ctx.scale, ctx.output_final_state, ctx.normalize = kind, scale, output_final_state, normalize
    ctx.set_materialize_grads(False)


def _gradients(ctx, do: Tensor | None, d_state: Tensor | None, backward: Callable[..., tuple[Tensor, ...]]):
    q, k, v, decay, bonus, initial_state, cu_seqlens, value_scale, skip, o, *kept = ctx.saved_tensors
    do = torch.zeros_like(v) if do is None else do
    d_state = d_state if ctx.output_final_state else None
    want_decay = decay is not None and (ctx.needs_input_grad[3] or ctx.kind == "channel")
    dq, dk, dv, d_decay, d_bonus, d_initial, d_scale, d_skip = backward(
        do, d_state, q, k, v, decay, ctx.kind, bonus, ctx.scale, initial_state, cu_seqlens, ctx.normalize, value_scale,
        skip, want_decay, o, kept,
    )  # fmt: skip
    return (
        dq, dk, dv, d_decay if want_decay else None, None, d_bonus if bonus is not None else None, None,
        d_initial if initial_state is not None else None, None, None, None,
        d_scale if value_scale is not None else None, d_skip if skip is not None else None,
    )  # fmt: skip


def _differentiate(ctx, do: Tensor | None, d_state: Tensor | None, *_):
    return _gradients(ctx, do, d_state, _backward)


_forward.register_autograd(_differentiate, setup_context=_save)


class _Eager(torch.autograd.Function):
    """The same operator without torch.library's dispatch, which costs more than small inputs take on the GPU."""

    @staticmethod
    def forward(ctx, *inputs):
        output = _run_forward(*inputs)
        _save(ctx, inputs, output)
        return output[:2]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, do: Tensor | None, d_state: Tensor | None):
        return _gradients(ctx, do, d_state, _run_backward)
