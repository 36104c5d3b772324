"""One token of the delta rule in Triton: the state is read and written once, which is all the time it takes.

S' = Diag(exp decay) S        S'' = S' + beta k (v - S'^T k)^T        o = scale S''^T q
"""

# Triton's decorator hides its kernels' types.
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..gated_linear_attention.launch import KINDS, ceil_div, padded
from ..gated_linear_attention.tiles import CHANNEL, NONE
from ..interpreter import correct_bfloat16
from ..operator import Step

correct_bfloat16()

# Columns of the state that a program holds, by sequences times heads: wide rows once there are programs enough.
COLUMNS = ((4096, 64), (128, 32), (0, 16))


@triton.jit
def step_kernel(
    q, k, v, beta, state, decay, o, scale, H, q_strides, k_strides, v_strides, beta_strides, decay_strides,
    K: tl.constexpr, V: tl.constexpr, GROUP: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK: tl.constexpr,
    KIND: tl.constexpr,
):  # fmt: skip
    """Grid (blocks of V, B * H). state: contiguous [B, H, K, V], in place. o: contiguous [B, H, V]."""
    b, h = (tl.program_id(1) // H).to(tl.int64), tl.program_id(1) % H
    o_k, o_v = tl.arange(0, BLOCK_K), tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    in_k, in_v = o_k < K, o_v < V
    b_q = tl.load(q + b * q_strides[0] + h // GROUP * q_strides[1] + o_k, mask=in_k, other=0.0).to(tl.float32)
    b_k = tl.load(k + b * k_strides[0] + h // GROUP * k_strides[1] + o_k, mask=in_k, other=0.0).to(tl.float32)
    b_v = tl.load(v + b * v_strides[0] + h * v_strides[1] + o_v, mask=in_v, other=0.0).to(tl.float32)
    b_beta = tl.load(beta + b * beta_strides[0] + h * beta_strides[1]).to(tl.float32)
    inside = in_k[:, None] & in_v[None, :]
    place = state + tl.program_id(1).to(tl.int64) * K * V + o_k[:, None] * V + o_v[None, :]
    now = tl.load(place, mask=inside, other=0.0)
    if KIND != NONE:
        here = decay + b * decay_strides[0] + h * decay_strides[1]
        if KIND == CHANNEL:
            now *= tl.exp(tl.load(here + o_k, mask=in_k, other=0.0).to(tl.float32))[:, None]
        else:
            now *= tl.exp(tl.load(here).to(tl.float32))
    error = b_v - tl.sum(b_k[:, None] * now, 0)
    now += b_k[:, None] * (b_beta * error)[None, :]
    tl.store(place, now, mask=inside)
    b_o = tl.sum(b_q[:, None] * now, 0) * scale
    tl.store(o + tl.program_id(1).to(tl.int64) * V + o_v, b_o.to(o.dtype.element_ty), mask=in_v)


def _run(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, state: Tensor, decay: Tensor | None, kind: str, scale: float
) -> Tensor:
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    B, Hk, K = q.shape
    H, V = v.shape[1:]
    o = torch.empty((B, H, V), dtype=v.dtype, device=v.device)
    decay_strides = (0, 0)
    if decay is not None:
        decay = decay if decay.stride(-1) == 1 or kind != "channel" else decay.contiguous()
        decay_strides = (0, decay.stride(0)) if kind == "head" else decay.stride()[:2]
    block = min(next(width for least, width in COLUMNS if least <= B * H), padded(V))
    step_kernel[(ceil_div(V, block), B * H)](
        q, k, v, beta, state, decay, o, scale, H,
        q.stride()[:2], k.stride()[:2], v.stride()[:2], beta.stride(), decay_strides,
        K=K, V=V, GROUP=H // Hk, BLOCK_K=padded(K), BLOCK=block, KIND=KINDS[kind], num_warps=4,
    )  # fmt: skip
    return o


delta_rule_step_triton = Step(
    "delta_rule_step",
    _run,
    fake=lambda q, k, v, *_: torch.empty(v.shape, dtype=v.dtype, device=v.device),
    flops=lambda q, k, v, beta, state, *_: 6 * state.numel(),
)
"""`delta_rule_step` for arguments already checked, the state fp32 and contiguous."""
