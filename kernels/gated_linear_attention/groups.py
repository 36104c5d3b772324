"""The backward pass where heads share q and k, as launches: when it is taken, and its kernels."""

# Triton's decorator hides its kernels' types.
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false

from __future__ import annotations

import torch
from torch import Tensor

from .backward import VALUES, key_value_scan
from .decay_gradient import add_up
from .group_gradients import chunk_states, group_key_gradients, group_query_gradients, group_weights
from .launch import Inputs, ceil_div, empty_rows, provide_descriptor_memory, strides
from .places import places
from .scan import PARTS
from .split import multiprocessors
from .summed_decays import PAIR as _PAIR
from .summed_decays import summed

# How the kernels of a chunk and group run fastest of what was tried (log.md, 17 and 23).
WEIGHT_OPTIONS = {"num_warps": 4, "STAGES": 3}
KEY_OPTIONS = {"num_warps": 4, "STAGES": 3}
STATE_OPTIONS = {"num_warps": 4, "STAGES": 3}
QUERY_OPTIONS = {"num_warps": 4, "STAGES": 3}
PAIR = _PAIR.value


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
    if x.decay is not None:
        x = summed(x)
    B, T, H, K, V = x.sizes
    time, blocks, groups = x.tiling.time, ceil_div(V, x.tiling.block), x.q.shape[2]
    at = places(x, PAIR * time)
    dq, dk = (x.q.new_empty(x.q.shape) for _ in range(2))
    dv = empty_rows(x.v.shape, x.v.dtype, x.v.device)
    d_initial = torch.empty_like(initial) if initial is not None else None
    d_scale = torch.empty_like(x.value_scale) if x.value_scale is not None else None
    d_skip = x.v.new_zeros((PAIR * at.count, H, PARTS.value), dtype=torch.float32) if x.skip is not None else None
    of_queries = of_keys = crossing = along_q = along_k = fresh = d_decay = None
    if want_decay or d_scale is not None:
        of_queries, of_keys = (x.v.new_empty((2, H, B * T), dtype=torch.float32) for _ in range(2))
    if want_decay:
        crossing = x.v.new_empty((blocks, at.count, H), dtype=torch.float32)
        along_q, along_k = (crossing.new_empty((1, H, B * T)) for _ in range(2))
        fresh = crossing.new_empty((PAIR, at.count, H))
    states = x.v.new_empty((at.count, H, V, K))  # their gradients, while these are wanted
    weights = x.v.new_empty((at.count, groups, PAIR + 1, time, time))
    key_value_scan[(blocks, x.sequences * H)](
        x.q, x.k, x.v, do, x.decay, None, None, d_final, dv, dv, None, None, states, d_initial, x.cu_seqlens,
        None, None, x.value_scale, None, None, x.skip, x.scale, T, T, 1, H, B * T, 0,
        strides(x.q), strides(x.k), strides(x.v), strides(do), strides(dv), strides(dv), x.decay_strides(), (0, 0, 0),
        GROUP=x.group, FULL_K=K, FULL_V=V, EVERY=PAIR, ROLES=VALUES.value, **x.constants(),
    )  # fmt: skip
    shared = {name: x.constants()[name] for name in ("K", "V", "TIME", "KIND", "VARLEN")} | {"GROUP": x.group}
    group_weights[(at.count * (PAIR + 1), groups)](
        x.q, x.k, x.v, do, x.decay, x.value_scale, weights, of_queries, of_keys, d_skip,
        at.sequence_of, x.cu_seqlens, T, H, B * T, strides(x.q), strides(x.k), strides(x.v), strides(do),
        **shared | WEIGHT_OPTIONS,
    )  # fmt: skip
    sizes = (at.sequence_of, x.cu_seqlens, x.scale, T, H, at.count, B * T)
    group_key_gradients[(PAIR * at.count, groups)](
        x.q, x.k, x.v, x.decay, x.value_scale, states, dk, weights, of_keys, along_k, fresh, d_scale,
        *sizes, strides(x.q), strides(x.k), strides(x.v), strides(dk), **shared | KEY_OPTIONS,
    )  # fmt: skip
    chunk_states[(blocks, x.sequences * H)](
        x.k, x.v, x.decay, x.value_scale, initial, states, crossing, x.cu_seqlens, T, H, at.count,
        strides(x.k), strides(x.v), x.decay_strides(), GROUP=x.group, **x.constants() | STATE_OPTIONS,
    )  # fmt: skip
    group_query_gradients[(PAIR * at.count, groups)](
        x.q, x.k, do, x.decay, states, dq, weights, of_queries, crossing, along_q, fresh,
        *sizes, strides(x.q), strides(x.k), strides(do), strides(dq), BLOCKS=blocks, **shared | QUERY_OPTIONS,
    )  # fmt: skip
    if along_q is not None and along_k is not None and fresh is not None:
        d_decay = add_up(x, PAIR, along_q, along_k, fresh)
    return dq, dk, dv, d_decay, d_initial, d_scale, None if d_skip is None else d_skip.sum((0, 2))
