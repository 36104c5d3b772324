"""Sequences packed into one row [1, T, ...], sequence n at cu_seqlens[n] : cu_seqlens[n+1]."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor


def check_cu_seqlens(cu_seqlens: Tensor, batch: int, length: int) -> int:
    """Return the number of packed sequences; raise ValueError for offsets that do not fit.

    The values are read only on the CPU: elsewhere that would wait for the device.
    """
    if batch != 1:
        raise ValueError(f"cu_seqlens packs the sequences into one row: B must be 1, got {batch}")
    if cu_seqlens.ndim != 1 or cu_seqlens.numel() < 2 or cu_seqlens.dtype not in (torch.int32, torch.int64):
        shape = list(cu_seqlens.shape)
        raise ValueError(f"cu_seqlens is an int32 vector of N+1 offsets, got {cu_seqlens.dtype} {shape}")
    if cu_seqlens.device.type == "cpu":
        offsets = cu_seqlens.tolist()
        if offsets[0] != 0 or offsets[-1] != length or any(start > end for start, end in pairwise(offsets)):
            raise ValueError(f"cu_seqlens must rise from 0 to T = {length}, got {offsets}")
    return cu_seqlens.numel() - 1


def spans(cu_seqlens: Tensor | None, batch: int, length: int) -> list[tuple[int, int, int]]:
    """(row, start, end) of every sequence, packed or not, in order."""
    if cu_seqlens is None:
        return [(row, 0, length) for row in range(batch)]
    return [(0, start, end) for start, end in pairwise(cu_seqlens.tolist())]


class Padding:
    """Sequences of one row as rows of a batch, padded to the longest, and back."""

    def __init__(self, cu_seqlens: Tensor) -> None:
        starts, ends = cu_seqlens[:-1, None].long(), cu_seqlens[1:, None].long()
        self.longest = int((ends - starts).max())
        positions = starts + torch.arange(self.longest, device=cu_seqlens.device)
        self.inside_NT = positions < ends
        self.index_NT = positions.clamp(max=int(ends[-1]) - 1)

    def pad(self, x: Tensor) -> Tensor:
        """[1, T, ...] to [N, longest, ...], zero beyond each sequence's end."""
        rows = x[0, self.index_NT]
        return rows.masked_fill(~self.inside_NT.view(*self.inside_NT.shape, *[1] * (x.ndim - 2)), 0)

    def unpad(self, x: Tensor) -> Tensor:
        """[N, longest, ...] back to [1, T, ...]."""
        return x[self.inside_NT][None]
