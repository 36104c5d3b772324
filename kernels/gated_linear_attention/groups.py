"""The backward pass where heads share q and k, as launches: when it is taken, and its kernels."""

# Triton's decorator hides its kernels' types.
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false

from __future__ import annotations

import torch
from torch import Tensor

from .backward import VALUES, key_value_scan
from .group_gradients import chunk_states, group_key_gradients, group_query_gradients
from .launch import Inputs, ceil_div, empty_rows, provide_descriptor_memory, strides
from .places import places
from .split import multiprocessors

# How the two kernels of a chunk and group run fastest of what was tried (log.md, 17).
KEY_OPTIONS = {"num_warps": 8, "STAGES": 3}
QUERY_OPTIONS = {"num_warps": 4, "STAGES": 3}


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
    at, blocks, time, groups = places(x, x.tiling.time), ceil_div(V, x.tiling.block), x.tiling.time, x.q.shape[2]
    dq, dk = (x.q.new_empty(x.q.shape) for _ in range(2))
    dv = empty_rows(x.v.shape, x.v.dtype, x.v.device)
    d_initial = torch.empty_like(initial) if initial is not None else None
    d_scale = torch.empty_like(x.value_scale) if x.value_scale is not None else None
    d_skip = x.v.new_zeros((at.count, H), dtype=torch.float32) if x.skip is not None else None
    crossing = arrived = remaining = d_decay = None
    if want_decay:
        d_decay = x.v.new_empty((B, T, H), dtype=torch.float32)
        crossing = d_decay.new_empty((blocks, at.count, H))
        arrived, remaining = (d_decay.new_empty((at.count, H, time)) for _ in range(2))
    states = x.v.new_empty((at.count, H, V, K))  # their gradients, while these are wanted
    weights = x.v.new_empty((at.count, groups, time, time))
    key_value_scan[(blocks, x.sequences * H)](
        x.q, x.k, x.v, do, x.decay, None, None, d_final, dv, dv, None, None, states, d_initial, x.cu_seqlens,
        None, None, x.value_scale, None, None, x.skip, x.scale, T, T, 1, H, B * T, 0,
        strides(x.q), strides(x.k), strides(x.v), strides(do), strides(dv), strides(dv), x.decay_strides(), (0, 0, 0),
        GROUP=x.group, FULL_K=K, FULL_V=V, EVERY=1, ROLES=VALUES.value, **x.constants(),
    )  # fmt: skip
    options = x.constants()
    del options["BLOCK"]
    group_key_gradients[(at.count, groups)](
        x.q, x.k, x.v, do, x.decay, x.value_scale, states, dk, weights, arrived, remaining, d_scale, d_skip,
        at.sequence_of, x.cu_seqlens, x.scale, T, H, at.count,
        strides(x.q), strides(x.k), strides(x.v), strides(do), x.decay_strides(), strides(dk),
        GROUP=x.group, **options | KEY_OPTIONS,
    )  # fmt: skip
    chunk_states[(blocks, x.sequences * H)](
        x.k, x.v, x.decay, x.value_scale, initial, states, crossing, x.cu_seqlens, T, H, at.count,
        strides(x.k), strides(x.v), x.decay_strides(), GROUP=x.group, **x.constants(),
    )  # fmt: skip
    group_query_gradients[(at.count, groups)](
        x.q, x.k, do, x.decay, states, dq, weights, crossing, arrived, remaining, d_decay, at.sequence_of,
        x.cu_seqlens, x.scale, T, H, at.count,
        strides(x.q), strides(x.k), strides(do), x.decay_strides(), strides(dq),
        GROUP=x.group, BLOCKS=blocks, **options | QUERY_OPTIONS,
    )  # fmt: skip
    return dq, dk, dv, d_decay, d_initial, d_scale, None if d_skip is None else d_skip.sum(0)
