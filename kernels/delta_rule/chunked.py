"""The delta rules in chunks, in plain PyTorch: what a machine without a GPU trains with.

What a token writes depends on what the tokens before it in the chunk wrote, through scores of keys with keys: a unit
triangular system, solved once for all chunks (the WY or UT form, Yang et al. 2024, "Parallelizing linear transformers
with the delta rule", section 3). With S the state before the chunk, everything is then affine in S, and a chunk maps

    o = O + Q S,    S' = Diag(total) S + P S + R.

Below, x̃ carries the decay from the chunk's start when it reads and to the chunk's end when it is a key; ⟨x, y⟩ are the
decayed scores of x with y (`triangle.py`).

    delta rule   (I + β⟨k, k⟩) w = β (v − k̃ S)          o = q̃ S + ⟨q, k⟩ w             S' = total S + k̃ᵀ w
    dplr         (I − ⟨a, b⟩) u = ã S + ⟨a, k⟩ v         o = q̃ S + ⟨q, k⟩ v + ⟨q, b⟩ u   S' = total S + k̃ᵀ v + b̃ᵀ u
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..checks import compute_dtype
from ..chunks import chunk_size, join_chunks, split_chunks
from ..gated_linear_attention.arguments import Kind
from ..packing import Padding
from ..triangle import decay_matrix, decayed_triangle


class _Maps(NamedTuple):
    """What a chunk does to the state before it; Q, P and R are None where no state enters or leaves."""

    O: Tensor
    Q: Tensor | None
    P: Tensor | None
    R: Tensor | None
    total: Tensor | None


def delta_rule_chunked(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    decay: Tensor | None,
    kind: Kind,
    scale: float,
    initial_state: Tensor | None,
    output_final_state: bool,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor | None]:
    """`delta_rule` for arguments already checked and with `kind` and `scale` resolved."""

    def maps(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, alpha: Tensor | None, stateful: bool) -> _Maps:
        kk, qk, k_start, q_start, k_end, total = _delta_scores(q * scale, k, alpha)
        if not stateful:
            return _Maps(qk @ _solve(beta * kk, beta * v), None, None, None, None)
        solved = _solve(beta * kk, torch.cat([beta * v, -beta * k_start], dim=-1))
        U, W = solved.split([v.shape[-1], k.shape[-1]], dim=-1)
        return _Maps(qk @ U, q_start + qk @ W, k_end.mT @ W, k_end.mT @ U, total)

    if decay is not None:
        decay = decay.expand(1, q.shape[1], -1) if kind == "head" else decay
        decay = decay if kind == "channel" else decay[..., None]
    return _run(maps, (q, k, v, beta[..., None]), decay, initial_state, output_final_state, cu_seqlens)


def dplr_chunked(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    decay: Tensor,
    scale: float,
    initial_state: Tensor | None,
    output_final_state: bool,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor | None]:
    """`dplr` for arguments already checked and with `scale` resolved."""

    def maps(q: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, alpha: Tensor, stateful: bool) -> _Maps:
        q, k, a, b, alpha = torch.broadcast_tensors(q * scale, k, a, b, alpha)
        qk, qb = (q * k).sum(-1), (q * b).sum(-1)
        own = torch.stack([torch.zeros_like(qk), torch.zeros_like(qb), qk, qb], dim=-1).unflatten(-1, (2, 2))
        scores, reads, keys, total = decayed_triangle(own, _interleave(a, q * alpha), _interleave(k, b), alpha)
        (a_start, q_start), (k_end, b_end) = _deinterleave(reads), _deinterleave(keys)
        (ak, ab), (qk, qb) = (_deinterleave(rows, dim=-1) for rows in _deinterleave(scores))
        if not stateful:
            return _Maps(qk @ v + qb @ _solve(-ab, ak @ v), None, None, None, None)
        solved = _solve(-ab, torch.cat([ak @ v, a_start], dim=-1))
        U, W = solved.split([v.shape[-1], k.shape[-1]], dim=-1)
        return _Maps(qk @ v + qb @ U, q_start + qb @ W, b_end.mT @ W, k_end.mT @ v + b_end.mT @ U, total)

    return _run(maps, (q, k, v, a, b), decay, initial_state, output_final_state, cu_seqlens)


def _run(
    maps: Callable[..., _Maps],
    tensors: tuple[Tensor, ...],
    decay: Tensor | None,
    state: Tensor | None,
    output_final_state: bool,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor | None]:
    """Cut `tensors` (q, k, v and what else `maps` takes, [B, T, heads, width] each) into chunks, and run their maps."""
    output_dtype, dtype = tensors[2].dtype, compute_dtype(*tensors, decay, state)
    padding = None if cu_seqlens is None else Padding(cu_seqlens)
    with torch.autocast(tensors[0].device.type, enabled=False):

        def prepare(x: Tensor) -> Tensor:
            return split_chunks((x if padding is None else padding.pad(x)).to(dtype), L, Hk)

        Hk, K = tensors[0].shape[2:]
        T = tensors[0].shape[1] if padding is None else padding.longest
        L = chunk_size(T, K)
        if T > L:
            L = chunk_size(T, K // 2)  # beside the scores, the systems for W and U cost L a token
        chunks = [prepare(x) for x in tensors]
        B, _, G, N, _, V = chunks[2].shape
        stateful = N > 1 or state is not None or output_final_state
        O, Q, P, R, total = maps(*chunks, None if decay is None else prepare(decay).exp(), stateful)
        if Q is not None and P is not None and R is not None:
            state = O.new_zeros(B, Hk, G, K, V) if state is None else state.to(dtype).view(B, Hk, G, K, V)
            before = []
            for n in range(N):
                before.append(state)
                kept = state if total is None else total[:, :, :, n, :, None] * state
                state = kept + R[:, :, :, n] + P[:, :, :, n] @ state
            O = O + Q @ torch.stack(before, dim=3)
            state = state.flatten(1, 2)
        o = join_chunks(O, T)
        o = o if padding is None else padding.unpad(o)
    return o.to(output_dtype), state if output_final_state else None


def _delta_scores(
    q: Tensor, k: Tensor, alpha: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    """Return ⟨k, k⟩ (strictly lower), ⟨q, k⟩ (lower), k̃ and q̃ as readers, k̃ as key, total (None without decay)."""
    if alpha is None:
        return (k @ k.mT).tril(-1), (q @ k.mT).tril(), k, q, k, None
    if alpha.shape[-1] == 1:
        decays, since, until, total = decay_matrix(alpha)
        return ((k @ k.mT) * decays).tril(-1), (q @ k.mT) * decays, k * since, q * since, k * until, total
    own = (q * k).sum(-1).expand(alpha.shape[:-1])
    own = torch.stack([torch.zeros_like(own), own], dim=-1).unsqueeze(-1)
    reads = _interleave(k * alpha, q * alpha)
    scores, reads, k_end, total = decayed_triangle(own, reads, k.expand_as(alpha), alpha)
    (kk, qk), (k_start, q_start) = _deinterleave(scores), _deinterleave(reads)
    return kk, qk, k_start, q_start, k_end, total


def _interleave(x: Tensor, y: Tensor) -> Tensor:
    """[..., L, K] twice to [..., 2 L, K]: x_0, y_0, x_1, y_1, …"""
    return torch.stack([x, y], dim=-2).flatten(-3, -2)


def _deinterleave(x: Tensor, dim: int = -2) -> tuple[Tensor, Tensor]:
    """The even and the odd rows (dim −2) or columns (dim −1), as views."""
    even, odd = x.unflatten(dim, (-1, 2)).unbind(dim)
    return even, odd


def _solve(lower: Tensor, right: Tensor) -> Tensor:
    """The solution X of (I + lower) X = right, lower strictly lower triangular."""
    return torch.linalg.solve_triangular(lower, right, upper=False, unitriangular=True)
