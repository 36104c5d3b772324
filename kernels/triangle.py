"""The scores inside a chunk, by doubling.

    A_ij = Σ_c q_ic (Π_{j<s<i} α_sc) k_jc   for tokens j < i,  0 for j > i;  what stands at j = i is given,

so q comes with its own token's decay where the recurrence wants that. Two neighbouring blocks a, b of n tokens, whose
queries carry the decay since their block's start and whose keys carry the decay to their block's end, give the scores
between them in one matrix product, and then become one block of 2n:

    A_ba = q_b k_aᵀ,    q_b ← q_b ∘ total_a,    k_a ← k_a ∘ total_b,    total ← total_a ∘ total_b.

Every factor is a product of numbers ≤ 1 and nothing is divided or exponentiated, so no decay is too strong, α = 0
included, and nothing is clamped. After log2(L) doublings q and k carry what the states between chunks need.

Legend: L tokens of a chunk, Q queries and R keys of each token (1 or 2), K their width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def decayed_triangle(own: Tensor, q: Tensor, k: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return A [..., L·Q, L·R], q with the decay since the chunk's start, k with the decay to its end, total [..., K].

    q: [..., L·Q, K] and k: [..., L·R, K], token after token. own: [..., L, Q, R], the scores of a token with itself.
    alpha: [..., L, K] in [0, 1]. L is a power of two.
    """
    return _Triangle.apply(own, q, k, alpha)  # type: ignore[return-value]


def decay_matrix(alpha: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return Π_{j<s≤i} α_s as a lower triangle [..., L, L], decays since the start and to the end [..., L, 1], total.

    alpha: [..., L, 1]. A chunk's scores are then (q kᵀ) ∘ this, for decays that all channels share.
    """
    ones = torch.ones_like(alpha)
    return decayed_triangle(ones.unsqueeze(-1), alpha, ones, alpha)


class _Triangle(torch.autograd.Function):
    """Written by hand because autograd would keep, and allocate, a copy of q, k and A at every doubling."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, q: Tensor, k: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        *leading, L, Q, R = own.shape
        q, k = q.clone(memory_format=torch.contiguous_format), k.clone(memory_format=torch.contiguous_format)
        total = alpha.reshape(-1, alpha.shape[-1])
        scores = q.new_zeros(*leading, L * Q, L * R)
        _diagonal(scores, L).copy_(own.reshape(-1, L, Q, R))
        kept = []
        n = 1
        while n < L:
            (_, q_b), (k_a, _), (total_a, total_b) = _halves(q, n * Q), _halves(k, n * R), _halves(total, 1)
            kept += [q_b.clone(), k_a.clone(), total]
            _between(scores, L, n).copy_((q_b @ k_a.mT).view(-1, L // (2 * n), n * Q, n * R))
            q_b.mul_(total_a)
            k_a.mul_(total_b)
            total = (total_a * total_b).squeeze(1)
            n *= 2
        ctx.save_for_backward(*kept)
        ctx.sizes = L, Q, R
        return scores, q, k, total.view(*leading, -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        g_scores, g_q, g_k, g_total = gradients
        L, Q, R = ctx.sizes
        K = g_q.shape[-1]
        g_q, g_k = g_q.clone(memory_format=torch.contiguous_format), g_k.clone(memory_format=torch.contiguous_format)
        leading, g_total = g_total.shape[:-1], g_total.reshape(-1, 1, K)
        kept = ctx.saved_tensors
        n = L // 2
        while n >= 1:
            *kept, q_b, k_a, total = kept
            (_, g_qb), (g_ka, _), (total_a, total_b) = _halves(g_q, n * Q), _halves(g_k, n * R), _halves(total, 1)
            g_total_a = (g_qb * q_b).sum(1, keepdim=True).addcmul_(g_total, total_b)
            g_total_b = (g_ka * k_a).sum(1, keepdim=True).addcmul_(g_total, total_a)
            g_total = torch.stack([g_total_a, g_total_b], dim=1).view(-1, 1, K)
            g_between = _between(g_scores, L, n).reshape(-1, n * Q, n * R)
            g_qb.mul_(total_a).add_(g_between @ k_a)
            g_ka.mul_(total_b).add_(g_between.mT @ q_b)
            n //= 2
        return _diagonal(g_scores, L).reshape(*leading, L, Q, R), g_q, g_k, g_total.view(*leading, L, K)


def _halves(x: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """The first and second blocks, as views, of all pairs of neighbouring blocks: [pairs, rows, K] each."""
    pairs = x.view(-1, 2, rows, x.shape[-1])
    return pairs[:, 0], pairs[:, 1]


def _diagonal(scores: Tensor, L: int) -> Tensor:
    """The scores of each token with itself, as a view: [chunks, L, Q, R]."""
    rows, columns = scores.shape[-2:]
    blocks = scores.reshape(-1, L, rows // L, L, columns // L)
    return blocks.diagonal(dim1=1, dim2=3).permute(0, 3, 1, 2)


def _between(scores: Tensor, L: int, n: int) -> Tensor:
    """The scores of each second block of n tokens with its first, as a view: [chunks, pairs of a chunk, n·Q, n·R]."""
    rows, columns = scores.shape[-2:]
    pairs = L // (2 * n)
    blocks = scores.reshape(-1, pairs, 2, rows // (2 * pairs), pairs, 2, columns // (2 * pairs))
    return blocks[:, :, 1, :, :, 0].diagonal(dim1=1, dim2=3).permute(0, 3, 1, 2)
