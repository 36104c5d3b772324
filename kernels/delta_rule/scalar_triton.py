"""The delta rule with a scalar decay, or none, as one differentiable operator computed by Triton kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from ..gated_linear_attention.arguments import Kind
from ..gated_linear_attention.launch import aligned
from ..operator import Operator
from .chunked import delta_rule_chunked
from .scalar_launch import DeltaInputs, Kept, empty_kept, run_backward, run_forward

WIDEST = 256  # the widest keys and values that the kernels have tiles for
DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def delta_rule_scalar_triton(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    decay: Tensor | None,
    kind: Kind,
    scale: float,
    initial_state: Tensor | None,
    output_final_state: bool,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor | None]:
    """`delta_rule` for arguments already checked, with `kind` (none, head or token) and `scale` resolved.

    Under autocast q, k and v are first cast to its dtype, else to the widest of theirs. What the kernels have no tiles
    for (float64, widths above 256) is computed by the PyTorch form.
    """
    dtype = torch.get_autocast_dtype(v.device.type) if torch.is_autocast_enabled(v.device.type) else None
    dtype = dtype or torch.promote_types(torch.promote_types(q.dtype, k.dtype), v.dtype)
    if dtype not in DTYPES or max(q.shape[-1], v.shape[-1]) > WIDEST:
        return delta_rule_chunked(q, k, v, beta, decay, kind, scale, initial_state, output_final_state, cu_seqlens)
    if initial_state is not None:
        initial_state = initial_state.float().contiguous()
    if cu_seqlens is not None:
        cu_seqlens = cu_seqlens.int()
    tensors = (v.to(dtype), q.to(dtype), k.to(dtype), beta, decay, initial_state)
    keep = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)
    o, state, *_ = scalar_operator(*tensors, cu_seqlens, kind, scale, output_final_state, keep)
    return o.to(v.dtype), state if output_final_state else None


def _inputs(
    v: Tensor, q: Tensor, k: Tensor, beta: Tensor, decay: Tensor | None, cu_seqlens: Tensor | None, kind: str,
    scale: float,
) -> DeltaInputs:  # fmt: skip
    return DeltaInputs(aligned(q), aligned(k), aligned(v), decay, kind, None, scale, cu_seqlens, beta)  # pyright: ignore


def _run_forward(
    v: Tensor, q: Tensor, k: Tensor, beta: Tensor, decay: Tensor | None, initial_state: Tensor | None,
    cu_seqlens: Tensor | None, kind: str, scale: float, output_final_state: bool, keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """o, the final states (empty unless asked for), and `Kept` (empty what is not)."""
    x = _inputs(v, q, k, beta, decay, cu_seqlens, kind, scale)
    o, state, kept = run_forward(x, initial_state, output_final_state, keep)
    return o.contiguous(), _or_empty(state, v), *(_or_empty(t, v) for t in kept)  # pyright: ignore[reportReturnType]


def _fake_forward(v, q, k, beta, decay, initial_state, cu_seqlens, kind, scale, output_final_state, keep):
    x = DeltaInputs(q, k, v, decay, kind, None, scale, cu_seqlens, beta)
    shape = (x.sequences, v.shape[2], q.shape[3], v.shape[3]) if output_final_state else (0,)
    o, state = torch.empty(v.shape, dtype=v.dtype, device=v.device), v.new_empty(shape, dtype=torch.float32)
    return o, state, *(_or_empty(t, v) for t in empty_kept(x, keep))


def _run_backward(
    do: Tensor, d_final: Tensor | None, v: Tensor, q: Tensor, k: Tensor, beta: Tensor, decay: Tensor | None,
    initial_state: Tensor | None, cu_seqlens: Tensor | None, inverse: Tensor, written: Tensor, states: Tensor,
    kind: str, scale: float, output_final_state: bool, keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:  # fmt: skip
    """Gradients of v, q, k, beta, decay and the initial state; None without such an input."""
    x = _inputs(v, q, k, beta, decay, cu_seqlens, kind, scale)
    d_final = None if d_final is None or not output_final_state else d_final.contiguous()
    d = run_backward(x, initial_state, aligned(do), d_final, Kept(inverse, written, states))
    dq, dk, d_decay = d.q, d.k, d.decay
    if x.group > 1:
        dq, dk = (g.unflatten(2, (q.shape[2], x.group)).sum(3) for g in (dq, dk))
    if d_decay is not None and decay is not None:
        d_decay = (d_decay.sum((0, 1)) if kind == "head" else d_decay).to(decay.dtype)
    return d.v.contiguous(), dq.contiguous(), dk.contiguous(), d.beta, d_decay, d.initial


def _or_empty(x: Tensor | None, like: Tensor) -> Tensor:
    return x if x is not None else like.new_empty(0, dtype=torch.float32)


def _flops(v, q, *_):
    """What a key recalls, what is written, what a query reads: of every head's state, token by token."""
    return 6 * v.numel() * q[-1]


scalar_operator = Operator(
    "delta_rule", _run_forward, _run_backward, fake=_fake_forward, tensors=7, learned=6, outputs=2, flops=_flops
)
