"""The scans as launches: all of a scalar decay's forward and backward, and the middle part of a decay per channel's."""

# Triton's decorator hides its kernels' types.
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..interpreter import correct_bfloat16
from .backward import EITHER as _EITHER
from .backward import KEYS as _KEYS
from .backward import VALUES as _VALUES
from .backward import key_value_scan, query_scan
from .decay_gradient import add_up
from .forward import forward_scan
from .launch import Inputs, ceil_div, empty_rows, padded, provide_descriptor_memory, strides
from .normaliser import extra_of, joined, parted
from .scan import PARTS as _PARTS
from .split import SHORT, cut, initial_states
from .summed_decays import summed
from .value_scale import scaled

correct_bfloat16()

# Chunks between two saved states, from which a decay's gradient starts afresh (scan.py): 2 keep a decay per
# token within 0.5% in bfloat16 for half of the memory (log.md); the other kinds need each.
EVERY = {"head": 1, "token": 2, "channel": 1, "none": 1}
PARTS, KEYS, VALUES, EITHER = (constant.value for constant in (_PARTS, _KEYS, _VALUES, _EITHER))


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
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """o [B, T, H, V], the final states [N, H, K, V] (None unless wanted) and 1 / den [B, T, H].

    With the normaliser states have V + 1 columns; without, 1 / den is None.
    """
    provide_descriptor_memory(x.v.device)
    B, T, H, K, V = x.sizes
    chunks = ceil_div(T, x.tiling.time)
    initial, initial_sums = parted(initial, x.normalize)
    final_sums = inverse = None
    if x.normalize:
        inverse = x.v.new_empty((B, T, H), dtype=torch.float32)
    o = empty_rows(x.v.shape, x.v.dtype, x.v.device)
    q, k, scores, total, group = operands(x, weighted)
    pieces = cut(x)
    if pieces.passes_states_on:
        value = replace(x, v=scaled(x.v, x.value_scale))
        initial, initial_sums, final, final_sums = initial_states(
            value, k, total, group, (initial, initial_sums), pieces, want_final
        )
    else:
        final = x.v.new_empty((x.sequences, H, K, V), dtype=torch.float32) if want_final else None
        final_sums = final.new_empty((x.sequences, H, K)) if final is not None and x.normalize else None
    left = (None, None) if pieces.passes_states_on else (final, final_sums)
    if x.kind == "token" and pieces.count == 1 and chunks > SHORT:  # else a launch more costs more than it saves
        x = summed(x)
    forward_scan[(ceil_div(V, x.tiling.block), x.sequences * pieces.count * H)](
        q, k, x.v, scalar_decay(x), scores, total, initial, o, left[0], x.cu_seqlens,
        initial_sums, left[1], inverse, x.value_scale, x.skip, x.scale, T, pieces.length, pieces.count, H,
        strides(q), strides(k), strides(x.v), strides(o), x.decay_strides(), scores_strides(scores),
        GROUP=group, FULL_K=padded(K), AHEAD=pieces.ahead, NEAR=pieces.near,
        ONE_CHUNK=pieces.count > 1 and pieces.length == x.tiling.time, **x.constants(),
    )  # fmt: skip
    return o, joined(final, final_sums), inverse


def run_backward(
    x: Inputs,
    initial: Tensor | None,
    do: Tensor,
    d_final: Tensor | None,
    want_decay: bool,
    weighted: Weighted | None = None,
    quotient: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
    """Gradients of q and k (per head of v: [B, T, H, K]), v, the decay (None unless wanted) and the initial state.

    For a decay per channel those of q and k are only what came through the states, still without their weights, and in
    the decay's place stands [places, H, K] for `channel_gradients`. quotient: with the normaliser, o and 1 / den.
    """
    provide_descriptor_memory(x.v.device)
    B, T, H, K, V = x.sizes
    blocks = ceil_div(K, x.tiling.block)
    if x.kind == "token":
        x = summed(x)
    dq, dk = (empty_rows((B, T, H, K), x.q.dtype, x.q.device) for _ in range(2))
    dv = empty_rows(x.v.shape, x.v.dtype, x.v.device)
    initial, initial_sums = parted(initial, x.normalize)
    d_final, d_final_sums = parted(d_final, x.normalize)
    d_initial = torch.empty_like(initial) if initial is not None else None
    d_initial_sums = torch.empty_like(initial_sums) if initial_sums is not None else None
    factor = extra = saved_sums = None
    if quotient is not None:
        factor, extra = quotient[1], extra_of(do, quotient[0])
    q, k, scores, total, group = operands(x, weighted)
    along_q = along_k = fresh = saved = None
    every = EVERY[x.kind]
    if want_decay:
        saved = x.v.new_empty((x.places(x.tiling.time * every), H, K, V))
        if x.normalize:
            saved_sums = saved.new_empty(saved.shape[:3], dtype=torch.float32)
        if weighted is None:
            along_q, along_k = (x.v.new_empty((blocks * PARTS, H, B * T), dtype=torch.float32) for _ in range(2))
            fresh = x.v.new_empty((blocks * PARTS, saved.shape[0], H), dtype=torch.float32)
        else:
            fresh = torch.empty_like(weighted.total)
    common = (x.scale, T, T, 1, H, B * T)
    query_scan[(blocks, x.sequences * H)](
        q, k, x.v, do, scalar_decay(x), total, initial, dq, along_q, saved, x.cu_seqlens,
        initial_sums, factor, extra, saved_sums,
        *common, strides(q), strides(k), strides(x.v), strides(do), strides(dq), x.decay_strides(),
        GROUP=group, FULL_V=padded(V), EVERY=every, **x.constants(),
    )  # fmt: skip
    for programs, roles in launches(x):
        of_keys = (None, None, factor, None, None, None)
        if roles != VALUES:
            of_keys = (d_final_sums, d_initial_sums, factor, extra, saved_sums, None)
        key_value_scan[(programs, x.sequences * H)](
            q, k, x.v, do, scalar_decay(x), scores, total, d_final, dk, dv, along_k, fresh,
            None if roles == VALUES else saved, d_initial, x.cu_seqlens, *of_keys,
            *common, 0 if saved is None else saved.shape[0],
            strides(q), strides(k), strides(x.v), strides(do), strides(dk), strides(dv), x.decay_strides(),
            scores_strides(scores),
            GROUP=group, FULL_K=padded(K), FULL_V=padded(V), EVERY=every, ROLES=roles, **x.constants(),
        )  # fmt: skip
    d_decay = fresh
    if along_q is not None and along_k is not None and fresh is not None:
        d_decay = add_up(x, every, along_q, along_k, fresh)
    return dq, dk, dv, d_decay, joined(d_initial, d_initial_sums)


def launches(x: Inputs) -> list[tuple[int, int]]:
    """Programs a head and roles of each launch of `key_value_scan`."""
    *_, K, V = x.sizes
    blocks_k, blocks_v = ceil_div(K, x.tiling.block), ceil_div(V, x.tiling.block)
    if x.kind != "channel" and K == V:
        return [(blocks_k + blocks_v, EITHER)]
    return [(blocks_k, KEYS), (blocks_v, VALUES)]


def operands(x: Inputs, weighted: Weighted | None) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None, int]:
    """q, k, scores, total and heads per head of q and k, as the scans take them."""
    if weighted is None:
        return x.q, x.k, None, None, x.group
    return weighted.q, weighted.k, weighted.scores, weighted.total, 1


def scalar_decay(x: Inputs) -> Tensor | None:
    return None if x.kind == "channel" else x.decay


def scores_strides(scores: Tensor | None) -> tuple[int, int, int]:
    return (0, 0, 0) if scores is None else strides(scores)
