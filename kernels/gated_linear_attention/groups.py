"""The backward pass where heads share q and k, as launches: when it is taken, and its three kernels."""

# Triton's decorator hides its kernels' types.
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false

from __future__ import annotations

import torch
from torch import Tensor

from .backward import VALUES, key_value_scan
from .group_gradients import chunk_states, group_gradients
from .launch import Inputs, ceil_div, empty_rows, provide_descriptor_memory, strides
from .places import places
from .split import multiprocessors


def taken(x: Inputs, do: Tensor) -> bool:
    """Whether a backward pass takes a group's heads together: `fused`, and do lies so too."""
    return fused(x) and do.stride(2) == x.v.shape[3]


def fused(x: Inputs) -> bool:
    """Whether a group's heads are worth a program of their own, and lie as `group_gradients` reads them."""
    *_, K, V = x.sizes
    side_by_side = x.v.stride(2) == V
    fits = x.v.dtype.itemsize == 2 and all(16 <= width <= 128 and width & (width - 1) == 0 for width in (K, V))
    if x.normalize or x.group == 1 or x.kind == "channel" or not (side_by_side and fits):
        return False
    return x.places(x.tiling.time) * x.q.shape[2] * 2 >= multiprocessors(x.v.device)


def run_group_backward(
    x: Inputs, initial: Tensor | None, do: Tensor, d_final: Tensor | None, want_decay: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of q and k [B, T, Hk, K], v, the decay per token [B, T, H] (None unless wanted), the initial state,
    value_scale and skip (None without).
    """
    provide_descriptor_memory(x.v.device)
    B, T, H, K, V = x.sizes
    at, blocks = places(x, x.tiling.time), ceil_div(V, x.tiling.block)
    dq, dk = (x.q.new_empty(x.q.shape) for _ in range(2))
    dv = empty_rows(x.v.shape, x.v.dtype, x.v.device)
    d_initial = torch.empty_like(initial) if initial is not None else None
    d_decay = x.v.new_empty((B, T, H), dtype=torch.float32) if want_decay else None
    d_scale = torch.empty_like(x.value_scale) if x.value_scale is not None else None
    d_skip = x.v.new_zeros((at.count, H), dtype=torch.float32) if x.skip is not None else None
    states, d_states = (x.v.new_empty((at.count, H, V, K)) for _ in range(2))
    chunk_states[(blocks, x.sequences * H)](
        x.k, x.v, x.decay, x.value_scale, initial, states, x.cu_seqlens, T, H,
        strides(x.k), strides(x.v), x.decay_strides(), GROUP=x.group, **x.constants(),
    )  # fmt: skip
    key_value_scan[(blocks, x.sequences * H)](
        x.q, x.k, x.v, do, x.decay, None, None, d_final, dv, dv, None, None, d_states, d_initial, x.cu_seqlens,
        None, None, x.value_scale, None, None, x.skip, x.scale, T, T, 1, H, B * T, 0,
        strides(x.q), strides(x.k), strides(x.v), strides(do), strides(dv), strides(dv), x.decay_strides(), (0, 0, 0),
        GROUP=x.group, FULL_K=K, FULL_V=V, EVERY=1, ROLES=VALUES.value, **x.constants(),
    )  # fmt: skip
    options = x.constants() | {"num_warps": 8}
    del options["BLOCK"]
    group_gradients[(at.count, x.q.shape[2])](
        x.q, x.k, x.v, do, x.decay, x.value_scale, states, d_states, dq, dk, d_decay, d_scale, d_skip,
        at.sequence_of, x.cu_seqlens, x.scale, T, H, at.count,
        strides(x.q), strides(x.k), strides(x.v), strides(do), x.decay_strides(), strides(dq),
        GROUP=x.group, **options,
    )  # fmt: skip
    return dq, dk, dv, d_decay, d_initial, d_scale, None if d_skip is None else d_skip.sum(0)
