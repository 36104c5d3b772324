"""A decay per token, summed inside each chunk before the scans: once for all of them, and once for all of a head's
blocks. Inside a scan the sum of a chunk would keep its warps waiting for each other, chunk after chunk.
"""

# Triton's decorator hides its kernels' types.
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false

from __future__ import annotations

from dataclasses import replace

import torch
import triton
import triton.language as tl

from .launch import HEADS, Inputs, ceil_div
from .places import places, slot, tokens_of
from .tiles import SUMMED, first_row, log2_decay

PAIR = tl.constexpr(2)  # chunks: every sequence has room for whole pairs of them


def summed(x: Inputs) -> Inputs:
    """x with its decay as sums by chunks [places of a pair, PAIR, H, chunk]: float32, for float32 inputs float64."""
    T, H = x.v.shape[1:3]
    time, pair = x.tiling.time, PAIR.value
    at = places(x, pair * time)
    dtype = torch.float64 if x.v.dtype == torch.float32 else torch.float32
    sums = torch.empty((at.count, pair, H, time), dtype=dtype, device=x.v.device)
    chunk_decays[(at.count * pair, ceil_div(H, HEADS))](
        x.decay, sums, at.sequence_of, x.cu_seqlens, T, H, x.decay_strides(),
        TIME=time, HEADS=HEADS, VARLEN=x.cu_seqlens is not None, num_warps=4,
    )  # fmt: skip
    return replace(x, decay=sums, summed=True)


@triton.jit(do_not_specialize=["T"])
def chunk_decays(
    decay, sums, sequence_of, cu_seqlens, T, H, decay_strides,
    TIME: tl.constexpr, HEADS: tl.constexpr, VARLEN: tl.constexpr,
):  # fmt: skip
    """Grid (chunks, blocks of HEADS heads). sums [chunks, H, TIME]: log2 decay from a chunk's start through each of its
    tokens; those past the end do not decay.
    """
    chunk = tl.program_id(0)
    batch, start, length = tokens_of(chunk // PAIR, sequence_of, cu_seqlens, T, TIME * PAIR, VARLEN)
    first = chunk % PAIR * TIME
    i, head = tl.arange(0, TIME), tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    inside = (first + i < length)[:, None] & (head < H)[None, :]
    at = first_row(decay_strides, batch, start + first, head)[None, :] + i.to(tl.int64)[:, None] * decay_strides[1]
    g = log2_decay(tl.load(decay + at, mask=inside, other=0.0), sums.dtype.element_ty == tl.float64)
    c = tl.cumsum(g, 0)
    tl.store(sums + (chunk * H + head).to(tl.int64)[None, :] * TIME + i[:, None], c, mask=(head < H)[None, :])


@triton.jit
def decay_from(
    decay, strides, batch, start, head, sequence, T, H, TIME: tl.constexpr, KIND: tl.constexpr, VARLEN: tl.constexpr
):
    """Where a head's scalar decays begin for a segment from token `start` on, summed ones for whole sequences only."""
    if KIND == SUMMED:
        chunk = slot(sequence, start, T, TIME * PAIR, VARLEN) * PAIR
        decay += (chunk * H + head) * TIME
    else:
        decay += first_row(strides, batch, start, head)
    return decay
