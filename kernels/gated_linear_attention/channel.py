"""A decay per channel: the scores of all chunks at once, then the scans over weighted q and k."""

# Triton's decorator hides its kernels' types.
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .channel_gradients import channel_gradients
from .channel_scores import channel_scores
from .launch import Inputs, empty_rows, padded, strides
from .places import places
from .scans import Weighted, run_backward, run_forward

# Largest |log2| of a centred weight (chunk_tiles.py): 2^60 both ways leaves bfloat16 and float32 room for any q and k
# that are not themselves near overflow, float16 has room for little.
LIMITS = {torch.bfloat16: 60.0, torch.float32: 60.0, torch.float16: 4.0}


def constants(x: Inputs, *, exact: bool, block: int = 32) -> dict[str, Any]:
    """The compile-time arguments that both chunk-parallel kernels take."""
    time = x.tiling.time
    return {
        "K": x.q.shape[3],
        "GROUP": x.group,
        "TIME": time,
        "LEVELS": time.bit_length() - 1,
        "BLOCK": min(block, padded(x.q.shape[3])),
        "EXACT": exact,
        "LIMIT": LIMITS[x.v.dtype],
        "VARLEN": x.cu_seqlens is not None,
        "num_warps": 4,
        "num_stages": 1,
    }


def empty_weighted(x: Inputs) -> Weighted:
    """Uninitialised memory for what `weigh` makes."""
    B, T, H, K, _ = x.sizes
    q, k = (empty_rows((B, T, H, K), x.v.dtype, x.v.device) for _ in range(2))
    count = x.places(x.tiling.time)
    return Weighted(
        q,
        k,
        scores=empty_rows((B, T, H, x.tiling.time), x.v.dtype, x.v.device),
        total=x.v.new_empty((count, H, K), dtype=torch.float32),
        lean=x.v.new_empty((count, H), dtype=torch.int8),
    )


def weigh(x: Inputs) -> Weighted:
    """Scores, and queries and keys weighted for the states."""
    assert x.decay is not None
    T, H = x.sizes[1:3]
    at, w = places(x, x.tiling.time), empty_weighted(x)
    for exact in (False, True):
        channel_scores[(at.count, H)](
            x.q, x.k, x.decay, x.bonus, w.scores, w.q, w.k, w.total, w.lean, at.sequence_of, x.cu_seqlens, T, H,
            strides(x.q), strides(x.k), strides(x.decay), strides(w.scores), strides(w.q),
            **constants(x, exact=exact, block=32 if exact or x.v.dtype.itemsize == 4 else 64),
        )  # fmt: skip
    return w


def run_channel_forward(x: Inputs, initial: Tensor | None, want_final: bool) -> tuple[Tensor, Tensor | None, Weighted]:
    """o [B, T, H, V], the final states [N, H, K, V] (None unless wanted), and what the backward pass takes."""
    x = contiguous_bonus(x)
    weighted = weigh(x)
    o, final, _ = run_forward(x, initial, want_final, weighted)
    return o, final, weighted


def run_channel_backward(
    x: Inputs, initial: Tensor | None, do: Tensor, d_final: Tensor | None, weighted: Weighted
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
    """Gradients of q and k (per head of v: [B, T, H, K]), v, the decay, the bonus and the initial state."""
    x, at = contiguous_bonus(x), places(x, x.tiling.time)
    assert x.decay is not None
    T, H, V = x.sizes[1], x.sizes[2], x.sizes[4]
    dq, dk, dv, crossing, d_initial = run_backward(x, initial, do, d_final, True, weighted)
    d_decay = empty_rows(x.decay.shape, x.decay.dtype, x.decay.device)
    d_bonus = torch.empty_like(crossing) if x.bonus is not None and crossing is not None else None
    for exact in (False, True):
        channel_gradients[(at.count, H)](
            x.q, x.k, x.v, do, x.decay, x.bonus, dq, dk, crossing, d_decay, d_bonus, weighted.lean, at.sequence_of,
            x.cu_seqlens, x.scale, T, H, strides(x.q), strides(x.k), strides(x.v), strides(do), strides(x.decay),
            strides(dq), strides(d_decay), V=V, **constants(x, exact=exact),
        )  # fmt: skip
    return dq, dk, dv, d_decay, d_bonus.sum(0) if d_bonus is not None else None, d_initial


def contiguous_bonus(x: Inputs) -> Inputs:
    return replace(x, bonus=x.bonus.contiguous()) if x.bonus is not None else x
