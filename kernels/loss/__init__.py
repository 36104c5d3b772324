"""The loss of a language model: the head's product and the cross-entropy, without ever holding all logits.

    l = scale · h Wᵀ, with a cap then l = cap · tanh(l / cap)
    loss = mean over the labelled n of log Σ_v exp l_nv − l_n,target

On a GPU it is Liger's (`liger-kernel`: chunks of rows, whose gradients are computed with the loss, while their logits
are at hand); elsewhere chunks of rows in plain PyTorch. Legend: N positions, D width, V vocabulary.
"""

from __future__ import annotations

from importlib.util import find_spec

from torch import Tensor

from ..backend import Backend, resolve_backend
from ..checks import require_floating, require_shape
from .reference import linear_cross_entropy_reference
from .rows import UNLABELLED, liger_chunk, linear_cross_entropy_rows

__all__ = [
    "UNLABELLED",
    "liger_chunk",
    "linear_cross_entropy",
    "linear_cross_entropy_reference",
    "linear_cross_entropy_rows",
]


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    scale: float = 1.0,
    cap: float | None = None,
    backend: Backend = "auto",
) -> Tensor:
    """The mean negative log-likelihood in nats, fp32 (fp64 for fp64), differentiable in `hidden` and `weight`.

    hidden: [N, D]. weight: [V, D]. targets: int64 [N], each in [0, V), or UNLABELLED (-100), which is not counted; NaN
    where none is labelled. Under autocast the product is in its dtype; products in float16 or float64 are PyTorch's.
    Raises ValueError for what does not fit.
    """
    if hidden.ndim != 2 or weight.ndim != 2 or hidden.shape[1] != weight.shape[1]:
        raise ValueError(f"hidden is [N, D] and weight [V, D], got {list(hidden.shape)} and {list(weight.shape)}")
    require_shape("targets", targets, hidden.shape[:1])
    require_floating(hidden=hidden, weight=weight)
    has_liger = find_spec("liger_kernel") is not None
    if resolve_backend(backend, hidden.device, operation="linear_cross_entropy", has_triton=has_liger) == "triton":
        from .liger import linear_cross_entropy_liger, supported

        if supported(hidden, weight):
            return linear_cross_entropy_liger(hidden, weight, targets, scale, cap)
    return linear_cross_entropy_rows(hidden, weight, targets, scale, cap)
