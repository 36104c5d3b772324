"""Arrays with one entry, a *place*, for every so many tokens of each sequence, packed sequences too."""

# Triton's decorator hides its kernels' types.
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import Inputs


@dataclass(frozen=True)
class Places:
    """Entries of an array that holds one for every so many tokens of a sequence (`slot`)."""

    count: int
    sequence_of: Tensor | None
    """Packed sequences: which sequence a place belongs to, int32 [count]."""


def places(x: Inputs, every: int) -> Places:
    """Those of a call, with one for every `every` tokens."""
    count = x.places(every)
    if x.cu_seqlens is None:
        return Places(count, None)
    device = x.v.device
    first = x.cu_seqlens[:-1] // every + torch.arange(x.sequences, device=device, dtype=torch.int32)
    entries = torch.arange(count, device=device, dtype=torch.int32)
    return Places(count, (torch.searchsorted(first, entries, right=True) - 1).int())


@triton.jit
def slot(sequence, start, T, EVERY: tl.constexpr, VARLEN: tl.constexpr):
    """The first place of a segment in an array that holds one entry for every EVERY tokens of a sequence.

    Packed sequences get floor(start / EVERY) + sequence: disjoint, as floor(a) + ceil(b) <= floor(a + b) + 1.
    """
    if VARLEN:
        place = start // EVERY + sequence
    else:
        place = sequence * tl.cdiv(T, EVERY) + start // EVERY
    return place.to(tl.int64)


@triton.jit
def tokens_of(place, sequence_of, cu_seqlens, T, EVERY: tl.constexpr, VARLEN: tl.constexpr):
    """Which tokens a place stands for: (batch, its first token, tokens from there to its sequence's end)."""
    if VARLEN:
        sequence = tl.load(sequence_of + place)
        start = tl.load(cu_seqlens + sequence)
        length = tl.load(cu_seqlens + sequence + 1) - start
        first = (place - (start // EVERY + sequence)) * EVERY
        batch = place * 0
    else:
        count = tl.cdiv(T, EVERY)
        batch = place // count
        first = (place % count) * EVERY
        start = place * 0
        length = T + start
    return batch, start + first, length - first
