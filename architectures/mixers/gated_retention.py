"""Gated retention (Sun et al. 2024, "You Only Cache Once", section 3.1): RetNet's recurrence with a decay that each
token sets, one per head.

    S_t = γ_t S_{t-1} + k_t v_tᵀ;   o_t = q_tᵀ S_t / sqrt(K);   γ_t = sigmoid(W_γ x_t)^(1/16)
    out = W_out (silu(W_g x) * rmsnorm(o))

State: S [B,H,K,V] in fp32, and the position [B].
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from ...kernels import rms_norm
from ..layer import register
from .retnet import RetNet, RetNetConfig

TEMPERATURE = 16


@register
@dataclass(frozen=True, kw_only=True)
class GatedRetentionConfig(RetNetConfig):
    """Retention with data-dependent decay; its other options are those of ``retnet``."""

    name = "gated_retention"

    expand: float = 1.0
    """Width of the values over that of the keys."""

    def weights(self, d_model: int) -> int:
        """Entries of the matrices, the decay's among them."""
        return super().weights(d_model) + d_model * self.heads(d_model)[0]

    def build(self, d_model: int) -> "GatedRetention":
        return GatedRetention(self, d_model)


class GatedRetention(RetNet):
    """Built from a GatedRetentionConfig."""

    def __init__(self, config: GatedRetentionConfig, d_model: int) -> None:
        super().__init__(config, d_model)
        self.decay_proj = nn.Linear(d_model, self.H, bias=False)

    def log_decay(self, x_BTD: Tensor) -> Tensor:
        """log γ, [B,T,H]."""
        return F.logsigmoid(self.decay_proj(x_BTD).float()) / TEMPERATURE

    def normalized(self, o_BTHV: Tensor) -> Tensor:
        return rms_norm(o_BTHV, None)
