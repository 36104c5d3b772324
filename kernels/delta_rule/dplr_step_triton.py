"""One token of dplr in Triton: the state is read and written once, which is all the time it takes.

S' = Diag(exp decay) S + b (a^T S) + k v^T        o = scale S'^T q
"""

# Triton's decorator hides its kernels' types.
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..gated_linear_attention.launch import ceil_div, padded
from ..interpreter import correct_bfloat16
from ..operator import Step

correct_bfloat16()

# Columns of the state that a program holds, by sequences times heads: wide rows once there are programs enough.
COLUMNS = ((4096, 64), (128, 32), (0, 16))


@triton.jit
def load_row(x, batch, head, strides, columns, inside):
    """One head's row of x [B, heads, K] in float32."""
    return tl.load(x + batch * strides[0] + head * strides[1] + columns, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def dplr_step_kernel(
    q, k, v, a, b, state, decay, o, scale, H, q_strides, k_strides, v_strides, a_strides, b_strides, decay_strides,
    K: tl.constexpr, V: tl.constexpr, GROUP: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Grid (blocks of V, B * H). state: contiguous [B, H, K, V], in place. o: contiguous [B, H, V]."""
    batch, head = (tl.program_id(1) // H).to(tl.int64), tl.program_id(1) % H
    o_k, o_v = tl.arange(0, BLOCK_K), tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    in_k, in_v = o_k < K, o_v < V
    b_q = load_row(q, batch, head // GROUP, q_strides, o_k, in_k)
    b_k = load_row(k, batch, head // GROUP, k_strides, o_k, in_k)
    b_a = load_row(a, batch, head // GROUP, a_strides, o_k, in_k)
    b_b = load_row(b, batch, head // GROUP, b_strides, o_k, in_k)
    b_v = load_row(v, batch, head, v_strides, o_v, in_v)
    alpha = tl.exp(load_row(decay, batch, head, decay_strides, o_k, in_k))
    inside = in_k[:, None] & in_v[None, :]
    place = state + tl.program_id(1).to(tl.int64) * K * V + o_k[:, None] * V + o_v[None, :]
    before = tl.load(place, mask=inside, other=0.0)
    read = tl.sum(b_a[:, None] * before, 0)
    now = alpha[:, None] * before + b_b[:, None] * read[None, :] + b_k[:, None] * b_v[None, :]
    tl.store(place, now, mask=inside)
    b_o = tl.sum(b_q[:, None] * now, 0) * scale
    tl.store(o + tl.program_id(1).to(tl.int64) * V + o_v, b_o.to(o.dtype.element_ty), mask=in_v)


def _run(q: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, state: Tensor, decay: Tensor, scale: float) -> Tensor:
    q, k, v, a, b, decay = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v, a, b, decay))
    B, Hk, K = q.shape
    H, V = v.shape[1:]
    o = torch.empty((B, H, V), dtype=v.dtype, device=v.device)
    block = min(next(width for least, width in COLUMNS if least <= B * H), padded(V))
    dplr_step_kernel[(ceil_div(V, block), B * H)](
        q, k, v, a, b, state, decay, o, scale, H, *(x.stride()[:2] for x in (q, k, v, a, b, decay)),
        K=K, V=V, GROUP=H // Hk, BLOCK_K=padded(K), BLOCK=block, num_warps=4,
    )  # fmt: skip
    return o


dplr_step_triton = Step(
    "dplr_step",
    _run,
    fake=lambda q, k, v, *_: torch.empty(v.shape, dtype=v.dtype, device=v.device),
    flops=lambda q, k, v, a, b, state, *_: 8 * state.numel(),
)
"""`dplr_step` for arguments already checked, the state fp32 and contiguous."""
