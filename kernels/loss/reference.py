"""The loss in fp64, all logits at once: what the other forms are judged by."""

from __future__ import annotations

import torch
from torch import Tensor


def linear_cross_entropy_reference(
    hidden: Tensor, weight: Tensor, targets: Tensor, *, scale: float = 1.0, cap: float | None = None
) -> Tensor:
    """As `linear_cross_entropy`, in fp64."""
    logits = scale * hidden.double() @ weight.double().T
    if cap is not None:
        logits = cap * torch.tanh(logits / cap)
    labelled = targets >= 0
    logits, targets = logits[labelled], targets[labelled]
    of_target = logits.gather(1, targets[:, None])[:, 0]
    return (logits.logsumexp(1) - of_target).mean()
