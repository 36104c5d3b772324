"""The scans as launches: all of a scalar decay's forward and backward, and the middle part of a decay per channel's."""

# Triton's decorator hides its kernels' types.
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..interpreter import correct_bfloat16
from .backward import key_value_scan, query_scan
from .forward import forward_scan
from .launch import Inputs, ceil_div, empty_rows, padded, provide_descriptor_memory, strides
from .split import initial_states, segments

correct_bfloat16()

# Chunks between two saved states, from which a decay's gradient starts afresh (scan.py): 2 keep a decay per
# token within 0.5% in bfloat16 for half the memory; the other kinds need each.
EVERY = {"head": 1, "token": 2, "channel": 1, "none": 1}


@dataclass(frozen=True)
class Weighted:
    """What `channel_scores` makes of q, k and a decay per channel.

    q, k: [B, T, H, K], weighted for the states. scores: [B, T, H, chunk]. total: log2 decay of each chunk,
    [places, H, K]. lean: which form of the chunk-parallel kernels each chunk takes, [places, H].
    """

    q: Tensor
    k: Tensor
    scores: Tensor
    total: Tensor
    lean: Tensor


def run_forward(
    x: Inputs, initial: Tensor | None, want_final: bool, weighted: Weighted | None = None
) -> tuple[Tensor, Tensor | None]:
    """o [B, T, H, V] and the final states [N, H, K, V] (None unless wanted)."""
    provide_descriptor_memory(x.v.device)
    _, T, H, K, V = x.sizes
    o = empty_rows(x.v.shape, x.v.dtype, x.v.device)
    q, k, scores, total, group = operands(x, weighted)
    count, length = segments(x), T
    if count > 1:
        length = ceil_div(ceil_div(T, x.tiling.time), count) * x.tiling.time
        count = ceil_div(T, length)
        initial, final = initial_states(x, k, total, group, initial, count, length, want_final)
    else:
        final = x.v.new_empty((x.sequences, H, K, V), dtype=torch.float32) if want_final else None
    forward_scan[(ceil_div(V, x.tiling.block), x.sequences * count * H)](
        q, k, x.v, scalar_decay(x), scores, total, initial, o, final if count == 1 else None, x.cu_seqlens,
        x.scale, T, length, count, H,
        strides(q), strides(k), strides(x.v), strides(o), x.decay_strides(), scores_strides(scores),
        GROUP=group, BLOCK=x.tiling.block, FULL_K=padded(K), **x.constants(),
    )  # fmt: skip
    return o, final


def run_backward(
    x: Inputs,
    initial: Tensor | None,
    do: Tensor,
    d_final: Tensor | None,
    want_decay: bool,
    weighted: Weighted | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
    """Gradients of q and k (per head of v: [B, T, H, K]), v, the decay (None unless wanted) and the initial state.

    For a decay per channel those of q and k are only what came through the states, still without their weights, and in
    the decay's place stands [places, H, K] for `channel_gradients`.
    """
    provide_descriptor_memory(x.v.device)
    B, T, H, K, V = x.sizes
    block, blocks = x.tiling.block, ceil_div(K, x.tiling.block)
    dq, dk = (empty_rows((B, T, H, K), x.q.dtype, x.q.device) for _ in range(2))
    dv = empty_rows(x.v.shape, x.v.dtype, x.v.device)
    d_initial = torch.empty_like(initial) if initial is not None else None
    q, k, scores, total, group = operands(x, weighted)
    along = saved = None
    every = EVERY[x.kind]
    if want_decay:
        shape = (blocks, B, T, H) if weighted is None else weighted.total.shape
        along = x.v.new_empty(shape, dtype=torch.float32)
        saved = x.v.new_empty((x.places(x.tiling.time * every), H, K, V))
    common = (x.scale, T, T, 1, H, B * T)
    query_scan[(blocks, x.sequences * H)](
        q, k, x.v, do, scalar_decay(x), total, initial, dq, along if weighted is None else None, saved, x.cu_seqlens,
        *common, strides(q), strides(k), strides(x.v), strides(do), strides(dq), x.decay_strides(),
        GROUP=group, BLOCK=block, FULL_V=padded(V), EVERY=every, **x.constants(),
    )  # fmt: skip
    for roles, options in launches(blocks, ceil_div(V, block), merged=saved is not None):
        key_value_scan[(roles, x.sequences * H)](
            q, k, x.v, do, scalar_decay(x), scores, total, d_final, dk, dv, along, saved, d_initial, x.cu_seqlens,
            *common, strides(q), strides(k), strides(x.v), strides(do), strides(dk), strides(dv), x.decay_strides(),
            scores_strides(scores),
            GROUP=group, BLOCK=block, FULL_K=padded(K), FULL_V=padded(V), EVERY=every,
            **x.constants(), **options,
        )  # fmt: skip
    if along is not None and weighted is None:
        along = along.sum(0) if blocks > 1 else along[0]
    return dq, dk, dv, along, d_initial


def launches(blocks_k: int, blocks_v: int, *, merged: bool) -> list[tuple[int, dict[str, int | bool]]]:
    """Programs a head and options of each launch of `key_value_scan`.

    Merged, both roles find q, k, v and do in the L2 cache. Where no decay needs a gradient the compiler keeps the
    tiles of both roles in shared memory at once, and half as many programs fit a multiprocessor: there each role is
    launched alone.
    """
    if not merged:
        keys, values = {"FIRST_ROLE": 0, "ONLY_KEYS": True}, {"FIRST_ROLE": blocks_k, "ONLY_KEYS": False}
        return [(blocks_k, keys), (blocks_v, values)]
    return [(blocks_k + blocks_v, {"FIRST_ROLE": 0, "ONLY_KEYS": False})]


def operands(x: Inputs, weighted: Weighted | None) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None, int]:
    """q, k, scores, total and heads per head of q and k, as the scans take them."""
    if weighted is None:
        return x.q, x.k, None, None, x.group
    return weighted.q, weighted.k, weighted.scores, weighted.total, 1


def scalar_decay(x: Inputs) -> Tensor | None:
    return None if x.kind == "channel" else x.decay


def scores_strides(scores: Tensor | None) -> tuple[int, int, int]:
    return (0, 0, 0) if scores is None else strides(scores)
