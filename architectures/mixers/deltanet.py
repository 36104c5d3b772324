"""DeltaNet (Schlag et al. 2021; Yang et al. 2024, section 3): a state corrected where it recalls the wrong value.

    q, k, v = silu(conv(W x)), q and k of norm 1;   β = sigmoid(W_β x) (twice that with negative eigenvalues)
    S_t = S_{t-1} + β_t k_t (v_t - S_{t-1}ᵀ k_t)ᵀ;   o_t = S_tᵀ q_t / sqrt(K);   out = W_out rmsnorm(o) per head

State: S [B,H,K,K] in fp32 and the last W-1 inputs of the convolution, [B,W-1,3D].
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...kernels import l2_norm
from ..delta_recurrence import correct, correction_flops
from ..heads import split_heads
from ..layer import Layer, LayerConfig, State, register
from ..linear_recurrence import zero_state, zero_state_bytes
from ..parts import RMSNorm, ShortConvolution, convolution_parameters, tail_bytes


@register
@dataclass(frozen=True, kw_only=True)
class DeltaNetConfig(LayerConfig):
    """DeltaNet."""

    name = "deltanet"
    role = "mixer"

    n_heads: int | None = None
    """Heads; left out: by ``head_dim``."""
    head_dim: int | None = None
    """K: width of a head; left out: the divisor of d_model nearest to 64."""
    d_conv: int = 4
    """Tokens that the convolution sees."""
    negative_eigenvalues: bool = False
    """Let β reach 2, so that a correction can overshoot (Grazzi et al. 2024)."""

    def __post_init__(self) -> None:
        self.require(self.d_conv >= 1, "d_conv", "at least 1")

    def heads(self, d_model: int) -> tuple[int, int]:
        """(heads, width of a head)."""
        return split_heads(self.name, d_model, self.n_heads, self.head_dim)

    def build(self, d_model: int) -> "DeltaNet":
        return DeltaNet(self, d_model)

    def num_parameters(self, d_model: int) -> int:
        H, K = self.heads(d_model)
        return 4 * d_model**2 + d_model * H + convolution_parameters(3 * d_model, self.d_conv, False) + K

    def flops_per_token(self, d_model: int, sequence_length: int) -> float:
        H, K = self.heads(d_model)
        return 8 * d_model**2 + 2 * d_model * H + 2 * 3 * d_model * self.d_conv + correction_flops(H, K, K)

    def state_bytes(self, d_model: int, sequence_length: int, dtype: torch.dtype = torch.bfloat16) -> int:
        H, K = self.heads(d_model)
        return zero_state_bytes(H, K, K) + tail_bytes(3 * d_model, self.d_conv, dtype)


class DeltaNet(Layer):
    """Built from a DeltaNetConfig."""

    def __init__(self, config: DeltaNetConfig, d_model: int) -> None:
        super().__init__()
        self.H, self.K = config.heads(d_model)
        self.most = 2.0 if config.negative_eigenvalues else 1.0
        self.qkv_proj = nn.Linear(d_model, 3 * d_model, bias=False)
        self.beta_proj = nn.Linear(d_model, self.H, bias=False)
        self.conv = ShortConvolution(3 * d_model, config.d_conv, bias=False)
        self.norm = RMSNorm(self.K)
        self.out_proj = nn.Linear(d_model, d_model, bias=False)

    def init_state(
        self, batch_size: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> State:
        return {
            "recurrent": zero_state(batch_size, self.H, self.K, self.K, device),
            "conv": self.conv.init_tail(batch_size, device=device, dtype=dtype),
        }

    def forward(self, x_BTD: Tensor, state: State | None = None) -> tuple[Tensor, State | None]:
        q_BTHK, k_BTHK, v_BTHK = self.conv(self.qkv_proj(x_BTD), state).unflatten(-1, (3, self.H, self.K)).unbind(2)
        beta_BTH = self.most * self.beta_proj(x_BTD).float().sigmoid()
        o_BTHK = correct(l2_norm(q_BTHK), l2_norm(k_BTHK), v_BTHK, beta_BTH, decay=None, state=state)
        return self.out_proj(self.norm(o_BTHK).flatten(2)), state
