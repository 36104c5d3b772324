"""The forward and the backward pass of a decay per channel: which kernels run, one after another."""

# Triton's decorator hides its kernels' types.
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false, reportIndexIssue=false

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..gated_linear_attention.launch import ceil_div
from ..interpreter import correct_bfloat16
from .channel_exact_gradients import exact_gradients
from .channel_gradients import channel_gradients
from .channel_launch import LIMITS, SOLVED, Inputs, Solved, empty_solved, strides, width
from .channel_scan import beta_gradients, read_states, scan_states
from .channel_scores import channel_scores
from .channel_solve import solve, solve_backward

correct_bfloat16()


def run_forward(x: Inputs, initial: Tensor | None, want_final: bool) -> tuple[Tensor, Tensor | None, Solved]:
    """o [B, T, H, V], the final states float32 [N, H, K, V] (None unless wanted), and what the backward pass takes."""
    B, T, H, K, V = x.sizes
    size, packing, s, tiles = x.tiling, (x.sequence_of(), x.cu_seqlens), empty_solved(x), x.tile_sizes()
    varlen = x.cu_seqlens is not None
    for exact in (False, True):
        channel_scores[(x.places * H,)](
            x.q, x.a, x.b, x.k, x.beta, x.decay, s.q, s.a, s.b, s.k, s.inverse, s.a_k, s.q_b, s.q_k, s.total, s.lean,
            *packing, x.scale, T, H, *x.score_strides(), WIDTH=width(K), LIMIT=LIMITS[x.v.dtype], EXACT=exact,
            BLOCK=size.score_channels, num_stages=1 if exact else size.score_stages, **x.score_options(),
        )  # fmt: skip
    reader = torch.empty_like(s.a)
    solve[(x.places * H,)](
        s.inverse, s.a_k, s.a, x.beta, x.v, reader, s.u, *packing, T, H, strides(x.beta), strides(x.v),
        LEVELS=size.time.bit_length() - 1, K_BLOCK=size.channels, V_BLOCK=size.values,
        SOLVED=SOLVED[x.v.dtype], VARLEN=varlen,
        num_warps=4, **tiles,
    )  # fmt: skip
    final = x.v.new_empty((x.sequences, H, K, V), dtype=torch.float32) if want_final else None
    _scan(x, s, reader, s.u, s.b, s.k, x.v, s.states, initial, final, backward=False)
    o = x.v.new_empty((B, T, H, V))
    _read(x, s.q, s.states, s.q_k, x.v, s.q_b, s.u, o, packing, backward=False)
    return o, final, s


class Gradients(NamedTuple):
    """Of q, a, b and k per head of v, [B, T, H, K]; of what an operation does not have: None."""

    q: Tensor
    a: Tensor | None
    b: Tensor
    k: Tensor | None
    v: Tensor
    beta: Tensor | None
    decay: Tensor
    initial: Tensor | None


def run_backward(x: Inputs, initial: Tensor | None, do: Tensor, d_final: Tensor | None, s: Solved) -> Gradients:
    """The gradients, from those of o [B, T, H, V] (dense last axis) and of the final states (or None)."""
    B, T, H, K, V = x.sizes
    size, packing, tiles = x.tiling, (x.sequence_of(), x.cu_seqlens), x.tile_sizes()
    varlen = x.cu_seqlens is not None
    reader, dz, d_states = torch.empty_like(s.b), torch.empty_like(s.u), torch.empty_like(s.states)
    solve_backward[(x.places * H,)](
        s.inverse, s.q_b, s.b, do, reader, dz, *packing, T, H, strides(do), K_BLOCK=size.channels,
        V_BLOCK=size.values, VARLEN=varlen, num_warps=4, **tiles,
    )  # fmt: skip
    d_initial = torch.empty_like(initial) if initial is not None else None
    _scan(x, s, reader, dz, s.a, s.q, do, d_states, d_final, d_initial, backward=True)
    del reader
    extra = x.k is not None

    def rows() -> Tensor:
        return x.v.new_empty((B, T, H, K))

    dq, db, d_decay = rows(), rows(), x.decay.new_empty((B, T, H, K))
    da, dk = (rows(), rows()) if extra else (None, None)
    parts = width(K) // size.span
    along = None if extra else x.v.new_empty((x.places, H, parts, size.time), dtype=torch.float32)
    for kernel in (channel_gradients, exact_gradients):
        kernel[(x.places * H * parts,)](
            x.q, x.a, x.b, x.k, x.beta, x.decay, do, x.v, s.u, dz, s.states, d_states, dq, da, db, dk, d_decay, along,
            s.lean, *packing, x.scale, T, H, *x.score_strides(), strides(do), strides(x.v), strides(dq),
            BLOCK=size.gradient_channels, SPAN=size.span, V=V, K_WIDTH=width(K), V_WIDTH=width(V), num_stages=1,
            **x.score_options(),
        )  # fmt: skip
    dv = x.v.new_empty((B, T, H, V))
    if extra:
        _read(x, s.k, d_states, s.q_k, do, s.a_k, dz, dv, packing, backward=True)
        return Gradients(dq, da, db, dk, dv, None, d_decay, d_initial)
    assert x.beta is not None
    d_beta = x.beta.new_empty((B, T, H))
    beta_gradients[(x.places * H,)](
        dz, x.v, x.beta, along, dv, d_beta, *packing, T, H, strides(x.v), strides(x.beta), strides(dv), strides(d_beta),
        V=V, V_WIDTH=width(V), TIME=size.time, PARTS=parts, VARLEN=varlen, num_warps=4,
    )  # fmt: skip
    return Gradients(dq, None, db, None, dv, d_beta, d_decay, d_initial)


def _scan(
    x: Inputs, s: Solved, reader: Tensor, written: Tensor, key: Tensor, extra_key: Tensor | None, value: Tensor,
    states: Tensor, initial: Tensor | None, final: Tensor | None, *, backward: bool,
) -> None:  # fmt: skip
    _, T, H, K, V = x.sizes
    size = x.tiling
    columns, warps, stages = (
        (size.columns_back, size.scan_warps_back, size.scan_stages_back)
        if backward
        else (size.columns, size.scan_warps, size.scan_stages)
    )
    scan_states[(ceil_div(width(V), columns), x.sequences * H)](
        reader, written, key, extra_key, value, s.total, states, initial, final, x.cu_seqlens, T, H, strides(value),
        K=K, BLOCK=columns, VARLEN=x.cu_seqlens is not None, BACKWARD=backward, num_warps=warps,
        **(x.tile_sizes() | {"num_stages": stages}),
    )  # fmt: skip


def _read(
    x: Inputs, reader: Tensor | None, states: Tensor, scores: Tensor | None, given: Tensor,
    solved_scores: Tensor | None, solved: Tensor, out: Tensor, packing: tuple[Tensor | None, Tensor | None], *,
    backward: bool,
) -> None:  # fmt: skip
    _, T, H, _, V = x.sizes
    size = x.tiling
    read_states[(x.places * H, ceil_div(width(V), size.values))](
        reader, states, scores, given, solved_scores, solved, out, *packing, T, H, strides(given), strides(out),
        BLOCK=size.values, VARLEN=x.cu_seqlens is not None, BACKWARD=backward, num_warps=size.read_warps,
        **x.tile_sizes(),
    )  # fmt: skip
