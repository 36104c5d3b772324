"""Gated linear attention in chunks, in plain PyTorch: what a machine without a GPU trains with.

Inside a chunk the recurrence is one lower-triangular matrix of scores (`triangle.py`); from chunk to chunk it passes
the state. With S the state before the chunk, q̃ carrying the decay since the chunk's start and k̃ the decay to its end:

    o = scale (A v + q̃ S),    S' = Diag(total) S + k̃ᵀ v.

Legend: B batch, N chunks, L tokens of a chunk, Hk heads of q and k, G = H / Hk heads of v that share one of them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..checks import compute_dtype
from ..chunks import chunk_size, join_chunks, split_chunks
from ..packing import Padding
from ..triangle import decay_matrix, decayed_triangle
from .arguments import Kind


def gated_linear_attention_chunked(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    decay: Tensor | None,
    kind: Kind,
    bonus: Tensor | None,
    scale: float,
    initial_state: Tensor | None,
    output_final_state: bool,
    normalize: bool,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor | None]:
    """`gated_linear_attention` for arguments already checked and with `kind` and `scale` resolved."""
    dtype, output_dtype = compute_dtype(q, k, v, decay, initial_state), v.dtype
    if decay is not None and kind == "head":
        decay = decay.expand(1, q.shape[1], -1)
    padding = None
    if cu_seqlens is not None:
        padding = Padding(cu_seqlens)
        q, k, v = (padding.pad(x) for x in (q, k, v))
        decay = None if decay is None else padding.pad(decay)
    with torch.autocast(q.device.type, enabled=False):
        values = v.to(dtype)
        if normalize:
            values = F.pad(values, (0, 1), value=1.0)
        q = q.to(dtype) if normalize else q.to(dtype) * scale
        decay = None if decay is None else decay.to(dtype)
        state = None if initial_state is None else initial_state.to(dtype)
        o, state = _scan(q, k.to(dtype), values, decay, bonus, state, output_final_state)
        o = o if padding is None else padding.unpad(o)
        if normalize:
            o = o[..., :-1] / o[..., -1:]
    return o.to(output_dtype), state


def _scan(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    decay: Tensor | None,
    bonus: Tensor | None,
    state: Tensor | None,
    output_final_state: bool,
) -> tuple[Tensor, Tensor | None]:
    B, T, Hk, K = q.shape
    H, V = v.shape[2:]
    L = chunk_size(T, K)
    q, k, v = (split_chunks(x, L, Hk) for x in (q, k, v))
    if decay is not None:
        decay = split_chunks(decay if decay.ndim == 4 else decay[..., None], L, Hk)
    if bonus is not None:
        bonus = bonus.to(q.dtype).view(Hk, -1, 1, 1, K)
    A, q, k, total = _scores(q, k, decay, bonus)
    o = A @ v
    if q.shape[3] > 1 or state is not None or output_final_state:
        state = v.new_zeros(B, H, K, V) if state is None else state
        before, state = _pass_states(k.mT @ v, total, state.view(B, Hk, -1, K, V))
        o = o + q @ before
        state = state.flatten(1, 2)
    return join_chunks(o, T), state if output_final_state else None


def _scores(
    q: Tensor, k: Tensor, decay: Tensor | None, bonus: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Return A, q̃, k̃ and total (None without decay)."""
    if decay is None and bonus is None:
        return (q @ k.mT).tril(), q, k, None
    alpha = q.new_ones(1) if decay is None else decay.exp()
    if bonus is None and alpha.shape[-1] == 1:
        decays, since, until, total = decay_matrix(alpha)
        return (q @ k.mT) * decays, q * since, k * until, total
    own = q * k if bonus is None else q * k * bonus
    q = q * alpha if bonus is None else q
    q, k, alpha, own = torch.broadcast_tensors(q, k, alpha, own)
    return decayed_triangle(own.sum(-1)[..., None, None], q, k, alpha)


def _pass_states(updates: Tensor, total: Tensor | None, state: Tensor) -> tuple[Tensor, Tensor]:
    """Return the state before each chunk, [B, Hk, G, N, K, V], and the one after the last."""
    before = []
    for n in range(updates.shape[3]):
        before.append(state)
        update = updates[:, :, :, n]
        state = update + state if total is None else torch.addcmul(update, total[:, :, :, n, :, None], state)
    return torch.stack(before, dim=3), state
