"""Gated DeltaNet (Yang, Kautz and Hatamizadeh 2024, section 3): the delta rule with Mamba-2's decay.

    q, k, v = silu(conv(W x)), q and k of norm 1;   β = sigmoid(W_β x);   α = exp(-exp(A) softplus(W_a x + b))
    S_t = α_t S_{t-1} + β_t k_t (v_t - α_t S_{t-1}ᵀ k_t)ᵀ;   o_t = S_tᵀ q_t / sqrt(K)
    out = W_out (rmsnorm(o) per head * silu(W_z x))

State: S [B,H,K,V] in fp32 and the last W-1 inputs of the convolution, [B,W-1,2GK+HV].
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...kernels import gated_rms_norm, l2_norm
from ..delta_recurrence import correct, correction_flops
from ..heads import require_divides, split_heads
from ..initialization import inverse_softplus, log_uniform
from ..layer import Layer, LayerConfig, State, register
from ..linear_recurrence import zero_state, zero_state_bytes
from ..parts import ShortConvolution, convolution_parameters, tail_bytes


@register
@dataclass(frozen=True, kw_only=True)
class GatedDeltaNetConfig(LayerConfig):
    """Gated DeltaNet."""

    name = "gated_deltanet"
    role = "mixer"

    expand: float | None = None
    """Width of all values over d_model; left out: 2, or ``n_heads`` times ``head_dim`` where both are given."""
    n_heads: int | None = None
    """Heads of the values; left out: by ``head_dim``."""
    head_dim: int | None = None
    """V: width of a head's values; left out: the divisor of the values' width nearest to 64."""
    n_key_heads: int | None = None
    """Heads of queries and keys, a divisor of the values' heads; left out: as many."""
    d_state: int | None = None
    """K: width of a head's queries and keys; left out: as wide as its values."""
    d_conv: int = 4
    """Tokens that the convolution sees."""
    negative_eigenvalues: bool = False
    """Let β reach 2, so that a correction can overshoot (Grazzi et al. 2024; OLMo-Hybrid)."""
    norm_eps: float = 1e-5
    """Epsilon of the output's norm."""

    def __post_init__(self) -> None:
        self.require(self.expand is None or self.expand > 0, "expand", "above 0")
        self.require(self.d_state is None or self.d_state >= 1, "d_state", "at least 1")
        self.require(self.d_conv >= 1, "d_conv", "at least 1")

    def heads(self, d_model: int) -> tuple[int, int, int, int]:
        """(value heads, key heads, key width, value width)."""
        if self.expand is None and self.n_heads is not None and self.head_dim is not None:
            width = self.n_heads * self.head_dim
        else:
            width = round((self.expand or 2.0) * d_model)
        H, V = split_heads(self.name, width, self.n_heads, self.head_dim)
        G = H if self.n_key_heads is None else self.n_key_heads
        require_divides(self.name, "n_key_heads", G, "n_heads", H)
        return H, G, self.d_state or V, V

    def convolved(self, d_model: int) -> int:
        """Channels of the convolution: queries, keys and values."""
        H, G, K, V = self.heads(d_model)
        return 2 * G * K + H * V

    def weights(self, d_model: int) -> int:
        """Entries of the matrices: queries, keys, values; gate and output; β and decay."""
        H, _, _, V = self.heads(d_model)
        return d_model * (self.convolved(d_model) + 2 * H * V + 2 * H)

    def build(self, d_model: int) -> "GatedDeltaNet":
        return GatedDeltaNet(self, d_model)

    def num_parameters(self, d_model: int) -> int:
        H, _, _, V = self.heads(d_model)
        convolution = convolution_parameters(self.convolved(d_model), self.d_conv, False)
        return self.weights(d_model) + convolution + 2 * H + V

    def flops_per_token(self, d_model: int, sequence_length: int) -> float:
        H, _, K, V = self.heads(d_model)
        convolution = 2 * self.convolved(d_model) * self.d_conv
        return 2 * self.weights(d_model) + convolution + correction_flops(H, K, V)

    def state_bytes(self, d_model: int, sequence_length: int, dtype: torch.dtype = torch.bfloat16) -> int:
        H, _, K, V = self.heads(d_model)
        return zero_state_bytes(H, K, V) + tail_bytes(self.convolved(d_model), self.d_conv, dtype)


class GatedDeltaNet(Layer):
    """Built from a GatedDeltaNetConfig."""

    def __init__(self, config: GatedDeltaNetConfig, d_model: int) -> None:
        super().__init__()
        self.H, self.G, self.K, self.V = config.heads(d_model)
        self.most = 2.0 if config.negative_eigenvalues else 1.0
        self.norm_eps = config.norm_eps
        self.in_proj = nn.Linear(d_model, config.convolved(d_model) + self.H * (self.V + 2), bias=False)
        self.conv = ShortConvolution(config.convolved(d_model), config.d_conv, bias=False)
        self.dt_bias = nn.Parameter(inverse_softplus(log_uniform(self.H, 1e-3, 1e-1)))
        self.A_log = nn.Parameter(torch.empty(self.H).uniform_(0.01, 16).log())  # the paper's range, kept off 0
        self.norm_weight = nn.Parameter(torch.ones(self.V))
        self.out_proj = nn.Linear(self.H * self.V, d_model, bias=False)

    def init_state(
        self, batch_size: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> State:
        return {
            "recurrent": zero_state(batch_size, self.H, self.K, self.V, device),
            "conv": self.conv.init_tail(batch_size, device=device, dtype=dtype),
        }

    def forward(self, x_BTD: Tensor, state: State | None = None) -> tuple[Tensor, State | None]:
        key, value = self.G * self.K, self.H * self.V
        qkv, z, beta, dt = self.in_proj(x_BTD).split([2 * key + value, value, self.H, self.H], dim=-1)
        q, k, v = self.conv(qkv, state).split([key, key, value], dim=-1)
        q_BTGK, k_BTGK = (l2_norm(m.unflatten(-1, (self.G, self.K))) for m in (q, k))
        v_BTHV, z_BTHV = (m.unflatten(-1, (self.H, self.V)) for m in (v, z))
        decay_BTH = -self.A_log.float().exp() * F.softplus(dt.float() + self.dt_bias)
        beta_BTH = self.most * beta.float().sigmoid()
        o_BTHV = correct(q_BTGK, k_BTGK, v_BTHV, beta_BTH, decay=decay_BTH, state=state)
        o_BTHV = gated_rms_norm(o_BTHV, z_BTHV, self.norm_weight, self.norm_eps, norm_before_gate=True)
        return self.out_proj(o_BTHV.flatten(2)), state
