"""The loss in plain PyTorch, in chunks of rows whose logits the backward pass computes again."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

UNLABELLED = -100
"""The target of a position that is not counted, as in `torch.nn.functional.cross_entropy`."""
LOGITS = 1 << 26
"""Logits that are held at a time (256 MiB in fp32)."""


def liger_chunk(N: int, D: int, V: int) -> tuple[int, int]:
    """Liger's chunk: how many times N x D logits it is told to hold, and the rows it then takes at once.

    By its default of once, small models would get many tiny chunks. Rows are rounded up to a power of two, so that up
    to twice LOGITS are held.
    """
    times = -(-LOGITS // (N * D))
    rows = -(-N // -(-V // (times * D)))
    return times, min(1 << (rows - 1).bit_length(), N)


def linear_cross_entropy_rows(
    hidden: Tensor, weight: Tensor, targets: Tensor, scale: float, cap: float | None
) -> Tensor:
    """`linear_cross_entropy` for arguments already checked."""
    rows = max(1, LOGITS // weight.shape[0])
    if len(hidden) <= rows:
        return _loss(hidden, weight, targets, scale, cap, "mean")
    chunks = zip(hidden.split(rows), targets.split(rows), strict=True)
    sums = [checkpoint(_loss, h, weight, t, scale, cap, "sum", use_reentrant=False) for h, t in chunks]
    return torch.stack(sums).sum() / (targets != UNLABELLED).sum()  # pyright: ignore[reportArgumentType]


def _loss(hidden: Tensor, weight: Tensor, targets: Tensor, scale: float, cap: float | None, reduction: str) -> Tensor:
    logits = F.linear(hidden, weight)
    logits = logits if scale == 1.0 else logits * scale
    logits = logits if cap is None else cap * torch.tanh(logits / cap)
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return F.cross_entropy(logits, targets, ignore_index=UNLABELLED, reduction=reduction)
