"""One token of gated linear attention in Triton: the state is read and written once, which is all the time it takes.

S' = Diag(exp decay) S + k v^T          o = scale q^T S'
with a bonus u                          o = scale q^T (S + Diag(u) k v^T)
"""

# Triton's decorator hides its kernels' types.
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..flops import count_flops, dispatched
from ..interpreter import correct_bfloat16
from .arguments import Kind
from .launch import ceil_div, padded
from .tiles import CHANNEL, NONE

correct_bfloat16()

KIND_NUMBERS: dict[Kind, int] = {"none": 0, "head": 1, "token": 2, "channel": 3}
# Columns of the state that a program holds, by sequences times heads: wide rows once there are programs enough.
COLUMNS = ((4096, 64), (128, 32), (0, 16))


@triton.jit
def step_kernel(
    q, k, v, state, decay, bonus, o, scale, H,
    q_strides, k_strides, v_strides, decay_strides,
    K: tl.constexpr, V: tl.constexpr, COLUMNS: tl.constexpr, GROUP: tl.constexpr,
    BLOCK_K: tl.constexpr, BLOCK: tl.constexpr, KIND: tl.constexpr, NORMALIZE: tl.constexpr,
):  # fmt: skip
    """Grid (blocks of V, B * H). state: contiguous [B, H, K, COLUMNS], in place; NORMALIZE: its last column is z."""
    first_v = tl.program_id(0) * BLOCK
    b, h = tl.program_id(1) // H, tl.program_id(1) % H
    o_k, o_v = tl.arange(0, BLOCK_K), first_v + tl.arange(0, BLOCK)
    in_k = o_k < K
    b_q = tl.load(q + b.to(tl.int64) * q_strides[0] + h // GROUP * q_strides[1] + o_k, mask=in_k, other=0.0)
    b_k = tl.load(k + b.to(tl.int64) * k_strides[0] + h // GROUP * k_strides[1] + o_k, mask=in_k, other=0.0)
    b_v = tl.load(v + b.to(tl.int64) * v_strides[0] + h * v_strides[1] + o_v, mask=o_v < V, other=0.0)
    b_q, b_k, b_v = b_q.to(tl.float32), b_k.to(tl.float32), b_v.to(tl.float32)
    base = state + tl.program_id(1).to(tl.int64) * K * COLUMNS
    if NORMALIZE:
        b_v = tl.where(o_v == V, 1.0, b_v)
    inside = in_k[:, None] & (o_v[None, :] < COLUMNS)
    place = base + o_k[:, None] * COLUMNS + o_v[None, :]
    before = tl.load(place, mask=inside, other=0.0)
    alpha = tl.full([BLOCK_K], 1.0, tl.float32)
    if KIND != NONE:
        place_of_decay = decay + b.to(tl.int64) * decay_strides[0] + h * decay_strides[1]
        if KIND == CHANNEL:
            alpha = tl.exp(tl.load(place_of_decay + o_k, mask=in_k, other=0.0).to(tl.float32))
        else:
            alpha *= tl.exp(tl.load(place_of_decay).to(tl.float32))
    added = b_k[:, None] * b_v[None, :]
    now = alpha[:, None] * before + added
    tl.store(place, now, mask=inside)
    seen = now
    if bonus is not None:
        b_u = tl.load(bonus + h * K + o_k, mask=in_k, other=0.0).to(tl.float32)
        seen = before + b_u[:, None] * added
    b_o = tl.sum(b_q[:, None] * seen, 0) * scale
    out = o + tl.program_id(1).to(tl.int64) * COLUMNS + o_v
    tl.store(out, b_o.to(o.dtype.element_ty), mask=o_v < COLUMNS)


def gated_linear_attention_step_triton(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    state: Tensor,
    decay: Tensor | None,
    kind: Kind,
    bonus: Tensor | None,
    scale: float,
    normalize: bool,
) -> Tensor:
    """`gated_linear_attention_step` for arguments already checked; state fp32, contiguous, advanced in place."""
    run = _step if dispatched(state) else _run
    return run(q, k, v, state, decay, kind, bonus, scale, normalize)


def _run(
    q: Tensor, k: Tensor, v: Tensor, state: Tensor, decay: Tensor | None, kind: str, bonus: Tensor | None,
    scale: float, normalize: bool,
) -> Tensor:  # fmt: skip
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    B, Hk, K = q.shape
    H, V = v.shape[1:]
    columns = V + normalize
    o = v.new_empty((B, H, columns), dtype=state.dtype if normalize else v.dtype)
    decay_strides = (0, 0)
    if decay is not None:
        decay = decay if decay.stride(-1) == 1 or kind != "channel" else decay.contiguous()
        decay_strides = (0, decay.stride(0)) if kind == "head" else decay.stride()[:2]
    block = min(next(width for least, width in COLUMNS if least <= B * H), padded(columns))
    step_kernel[(ceil_div(columns, block), B * H)](
        q, k, v, state, decay, bonus.contiguous() if bonus is not None else None, o, 1.0 if normalize else scale, H,
        q.stride()[:2], k.stride()[:2], v.stride()[:2], decay_strides,
        K=K, V=V, COLUMNS=columns, GROUP=H // Hk, BLOCK_K=padded(K), BLOCK=block, KIND=KIND_NUMBERS[kind],
        NORMALIZE=normalize, num_warps=4,
    )  # fmt: skip
    return (o[..., :-1] / o[..., -1:]).to(v.dtype) if normalize else o


_step = torch.library.custom_op("hybridlab::gated_linear_attention_step", _run, mutates_args=("state",))


@_step.register_fake
def _(q, k, v, state, decay, kind, bonus, scale, normalize):
    return torch.empty(v.shape, dtype=v.dtype, device=v.device)


@count_flops(_step)
def _step_flops(q, k, v, state, *_):
    B, H, K, columns = state
    return 4 * B * H * K * columns
