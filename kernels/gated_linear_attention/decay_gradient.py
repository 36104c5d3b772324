"""The gradient of a decay per token or head, from what the scans left behind: sums that `scan` explains."""

# Triton's decorator hides its kernels' types.
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import HEADS, Inputs, ceil_div
from .places import places, tokens_of


def add_up(x: Inputs, every: int, along_q: Tensor, along_k: Tensor, fresh: Tensor) -> Tensor:
    """The decay's gradient at every token [B, T, H]. along_q, along_k: [parts, H, B * T]. fresh: [parts or more,
    places, H], one for every `every` chunks.
    """
    B, T, H = x.v.shape[:3]
    span = x.tiling.time * every
    at = places(x, span)
    d_decay = x.v.new_empty((B, T, H), dtype=torch.float32)
    decay_gradient[(at.count, ceil_div(H, HEADS))](
        along_q, along_k, fresh, d_decay, at.sequence_of, x.cu_seqlens, T, H, B * T, at.count,
        PARTS=along_q.shape[0], SPAN=span, HEADS=HEADS, VARLEN=x.cu_seqlens is not None, num_warps=4,
    )  # fmt: skip
    return d_decay


@triton.jit(do_not_specialize=["T", "tokens", "places"])
def decay_gradient(
    along_q, along_k, fresh, d_decay, sequence_of, cu_seqlens, T, H, tokens, places,
    PARTS: tl.constexpr, SPAN: tl.constexpr, HEADS: tl.constexpr, VARLEN: tl.constexpr,
):  # fmt: skip
    """Grid (places, blocks of HEADS heads): the sums of `scan` for the SPAN tokens of a place.

    along_q, along_k: [PARTS, H, tokens], fresh: [PARTS, places, H], d_decay: [tokens, H], float32 and contiguous.
    """
    place = tl.program_id(0)
    batch, first, length = tokens_of(place, sequence_of, cu_seqlens, T, SPAN, VARLEN)
    i, head = tl.arange(0, SPAN), tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    token = (batch * T + first + i).to(tl.int64)[:, None]
    inside = (i < length)[:, None] & (head < H)[None, :]
    difference = tl.zeros([SPAN, HEADS], tl.float32)
    arrived = tl.zeros([HEADS], tl.float32)
    for part in tl.static_range(PARTS):
        at = (part * H + head).to(tl.int64)[None, :] * tokens + token
        difference += tl.load(along_q + at, mask=inside, other=0.0)
        difference -= tl.load(along_k + at, mask=inside, other=0.0)
        arrived += tl.load(fresh + (part * places + place).to(tl.int64) * H + head, mask=head < H, other=0.0)
    later = tl.cumsum(difference, 0, reverse=True)
    tl.store(d_decay + token * H + head[None, :], later + arrived[None, :], mask=inside)
