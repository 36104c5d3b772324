"""The delta rules: states that are corrected rather than only added to.

`delta_rule`: what key k_t recalls is replaced, to the degree beta, by v_t (S is K by V):

    S'_t = Diag(exp decay_t) S_{t-1},    S_t = S'_t + beta_t k_t (v_t − S'_tᵀ k_t)ᵀ,    o_t = scale · S_tᵀ q_t

| kind    | decay     | models                                                     |
|---------|-----------|------------------------------------------------------------|
| none    | None      | DeltaNet (Yang et al. 2024, "Parallelizing …", eq. 3)      |
| head    | [H]       |                                                            |
| token   | [B,T,H]   | Gated DeltaNet (Yang, Kautz & Hatamizadeh 2024, eq. 10)    |
| channel | [B,T,H,K] | Kimi Delta Attention (Kimi team 2025, eq. 1)               |

With ‖k‖ = 1 the eigenvalues along k are 1 − beta: negative ones need beta up to 2 (Grazzi et al. 2024).

`dplr`: diagonal plus low rank, the general form, which RWKV-7 needs (Peng et al. 2025; there a = −κ̂, b = κ̂ ∘ rate):

    S_t = (Diag(exp decay_t) + b_t a_tᵀ) S_{t-1} + k_t v_tᵀ,    o_t = scale · S_tᵀ q_t

Legend: B batch, T time, H heads, Hk heads of q and k (H % Hk == 0: head h reads group h // (H / Hk)), K key width,
V value width, N packed sequences.
"""

from __future__ import annotations

from torch import Tensor

from ..backend import Backend, resolve_backend
from ..gated_linear_attention.arguments import Kind
from .arguments import check_delta_rule, check_dplr
from .chunked import delta_rule_chunked, dplr_chunked
from .reference import delta_rule_reference, dplr_reference
from .step import delta_rule_step, dplr_step

__all__ = [
    "delta_rule",
    "delta_rule_chunked",
    "delta_rule_reference",
    "delta_rule_step",
    "dplr",
    "dplr_chunked",
    "dplr_reference",
    "dplr_step",
]


def delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    *,
    decay: Tensor | None = None,
    kind: Kind | None = None,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
    backend: Backend = "auto",
) -> tuple[Tensor, Tensor | None]:
    """Run the recurrence over a whole sequence, differentiably in every tensor argument.

    q, k: [B, T, Hk, K]; k of norm 1 where the state is to stay bounded. v: [B, T, H, V]. beta: [B, T, H] in [0, 2].
    decay: natural logarithm, ≤ 0: None, [H], [B, T, H] or [B, T, H, K]; `kind` says which and is inferred when None.
    scale: K**-0.5 when None. initial_state: [B, H, K, V], zeros when None.
    cu_seqlens: int [N+1] from 0 to T with B = 1: N independent sequences packed in one row, states then [N, H, K, V].

    The Triton kernels take bf16, fp16 and fp32 and widths up to 256; what else there is the PyTorch form computes. With
    no decay or a scalar one they keep, from forward to backward, what each token wrote and a state for every 64 tokens
    (as much memory as v, and K V / 32 bytes a token and head in bf16). In 16 bits a beta below 2^-12 (bf16) or 2^-14
    (fp16) counts as that. With a decay per channel widths go up to 128, backend="triton" refuses what its kernels do
    not take, and the weighted q and k (twice) are kept too.

    Returns o [B, T, H, V] in v's dtype and, where `output_final_state`, the final state (fp32, fp64 for fp64 inputs),
    else None. Raises ValueError, naming the argument and what would be right, for what does not fit.
    """
    kind = check_delta_rule(q, k, v, beta, decay, kind, initial_state, cu_seqlens)
    factor = float(q.shape[-1] ** -0.5 if scale is None else scale)
    arguments = (q, k, v, beta, decay, kind, factor, initial_state, output_final_state, cu_seqlens)
    if kind == "channel" and decay is not None:
        if _has_kernels("delta_rule", backend, q, k, v):
            from .channel_triton import delta_rule_channel_triton

            of_states = (factor, initial_state, output_final_state, cu_seqlens)
            return delta_rule_channel_triton(q, k, v, beta, decay, *of_states)
    elif resolve_backend(backend, q.device, operation="delta_rule", has_triton=True) == "triton":
        from .scalar_triton import delta_rule_scalar_triton

        return delta_rule_scalar_triton(*arguments)
    return delta_rule_chunked(*arguments)


def dplr(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    *,
    decay: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
    backend: Backend = "auto",
) -> tuple[Tensor, Tensor | None]:
    """Run the recurrence over a whole sequence, differentiably in every tensor argument.

    q, k, a, b: [B, T, Hk, K]. v: [B, T, H, V]. decay: [B, T, H, K], natural logarithm, ≤ 0.
    Everything else, what is returned and what is raised as in `delta_rule`; its kernels of a decay per channel
    compute this too.
    """
    check_dplr(q, k, v, a, b, decay, initial_state, cu_seqlens)
    factor = float(q.shape[-1] ** -0.5 if scale is None else scale)
    arguments = (q, k, v, a, b, decay, factor, initial_state, output_final_state, cu_seqlens)
    if _has_kernels("dplr", backend, q, k, v, a, b):
        from .channel_triton import dplr_triton

        return dplr_triton(*arguments)
    return dplr_chunked(*arguments)


def _has_kernels(operation: str, backend: Backend, *tensors: Tensor) -> bool:
    """Whether the kernels of a decay per channel run; ValueError where they are asked for and cannot."""
    if resolve_backend(backend, tensors[0].device, operation=operation, has_triton=True) != "triton":
        return False
    from .channel_triton import lacking

    reason = lacking(*tensors)
    if reason is not None and backend == "triton":
        raise ValueError(f"{operation} with a decay per channel has no Triton kernels for {reason}: use backend='auto'")
    return reason is None
