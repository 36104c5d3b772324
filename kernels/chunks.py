"""Sequences cut into chunks, for the PyTorch forms of the matrix-state recurrences.

Legend: B batch, N chunks, L tokens of a chunk, Hk heads of q and k, G = H / Hk heads of v that share one of them.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def chunk_size(T: int, K: int) -> int:
    """Tokens of a chunk, a power of two: scores cost L a token and states K, so the two are kept alike."""
    return 1 << (min(T, max(16, min(K, 64))) - 1).bit_length()


def split_chunks(x: Tensor, L: int, Hk: int) -> Tensor:
    """[B, T, Hk·G, D] to [B, Hk, G, N, L, D], padded with zeros: tokens that neither decay nor add."""
    B, T, H, D = x.shape
    N = -(-T // L)
    if N * L != T:
        x = F.pad(x, (0, 0, 0, 0, 0, N * L - T))
    return x.view(B, N, L, Hk, H // Hk, D).permute(0, 3, 4, 1, 2, 5)


def join_chunks(x: Tensor, T: int) -> Tensor:
    """[B, Hk, G, N, L, D] to [B, T, Hk·G, D], without what was padded."""
    B, Hk, G, N, L, D = x.shape
    return x.permute(0, 3, 4, 1, 2, 5).reshape(B, N * L, Hk * G, D)[:, :T]
