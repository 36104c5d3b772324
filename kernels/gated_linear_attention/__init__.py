"""Gated linear attention: linear attention, RetNet, Mamba-2, GLA, RWKV-6: one recurrence with four kinds of decay.

    S_t = Diag(exp decay_t) S_{t-1} + k_t v_tᵀ            S is K by V
    o_t = scale · q_tᵀ S_t
    o_t = scale · q_tᵀ (S_{t-1} + Diag(u) k_t v_tᵀ)       with a bonus u (RWKV-6)
    S_t = … + k_t (dt_t v_t)ᵀ,   o_t = … + D v_t          with a value_scale dt, a skip D (Mamba-2)

| kind    | decay     | models                                                                    |
|---------|-----------|---------------------------------------------------------------------------|
| none    | None      | linear attention (Katharopoulos et al. 2020, eq. 16-18)                    |
| head    | [H]       | RetNet (Sun et al. 2023, eq. 6)                                            |
| token   | [B,T,H]   | Mamba-2 (Dao & Gu 2024, eq. 16: decay = dt·A, q = C, k = B, v = x)         |
| channel | [B,T,H,K] | GLA (Yang et al. 2023, eq. 3); RWKV-6 (Peng et al. 2024, eq. 16, bonus)    |

Legend: B batch, T time, H heads, Hk heads of q and k (H % Hk == 0: head h reads group h // (H / Hk)), K key width,
V value width, N packed sequences.
"""

from __future__ import annotations

from torch import Tensor

from ..backend import Backend, resolve_backend
from .arguments import Kind, check_arguments
from .chunked import gated_linear_attention_chunked
from .reference import gated_linear_attention_reference
from .step import gated_linear_attention_step
from .value_scale import check_value_scale, scaled, with_skip

__all__ = [
    "Kind",
    "gated_linear_attention",
    "gated_linear_attention_chunked",
    "gated_linear_attention_reference",
    "gated_linear_attention_step",
]


def gated_linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    decay: Tensor | None = None,
    kind: Kind | None = None,
    bonus: Tensor | None = None,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    normalize: bool = False,
    value_scale: Tensor | None = None,
    skip: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    backend: Backend = "auto",
) -> tuple[Tensor, Tensor | None]:
    """Run the recurrence over a whole sequence, differentiably in every tensor argument.

    q, k: [B, T, Hk, K]. v: [B, T, H, V].
    decay: natural logarithm, ≤ 0: None, [H], [B, T, H] or [B, T, H, K]; `kind` says which and is inferred when None.
    One per head that requires a gradient has the kernels run in float32; expanded to [B, T, H] they stay in 16 bits,
    and its gradient is a few percent off.
    bonus: [H, K]. scale: K**-0.5 when None. initial_state: [B, H, K, V], zeros when None.
    cu_seqlens: int [N+1] from 0 to T with B = 1: N independent sequences packed in one row, states then [N, H, K, V].
    normalize: o_t = (q_tᵀ S_t) / (q_tᵀ z_t), z the same recurrence with v = 1; states then have V+1 columns, last z.
    A scalar decay's kernels take the quotient inside, in fp32; a decay per channel's after rounding.
    value_scale: [B, T, H], skip: [H]: S_t takes value_scale_t v_t for v_t, and o_t gets skip v_t more (Mamba-2's dt
    and D); inside the kernels where heads share q and k, operations of their own elsewhere.

    Returns o [B, T, H, V] in v's dtype and, where `output_final_state`, the final state (fp32, fp64 for fp64 inputs),
    else None. Raises ValueError, naming the argument and what would be right, for what does not fit.
    """
    kind = check_arguments(q, k, v, decay, kind, bonus, initial_state, normalize, cu_seqlens)
    check_value_scale(v, value_scale, skip)
    factor = float(q.shape[-1] ** -0.5 if scale is None else scale)
    arguments = (q, k, v, decay, kind, bonus, factor, initial_state, output_final_state, normalize, cu_seqlens)
    if resolve_backend(backend, q.device, operation="gated_linear_attention", has_triton=True) == "triton":
        from .triton_op import gated_linear_attention_triton

        return gated_linear_attention_triton(*arguments, value_scale, skip)
    o, state = gated_linear_attention_chunked(q, k, scaled(v, value_scale), *arguments[3:])
    return with_skip(o, v, skip), state
