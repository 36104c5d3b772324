"""Kimi Delta Attention (Kimi team 2025, section 3): the delta rule with a decay per token and key channel.

    q, k, v = silu(conv(W x)), q and k of norm 1;   β = sigmoid(W_β x);   α = exp(-exp(A) softplus(W₂ W₁ x + b))
    (Ling bounds the decay instead: α = exp(bound * sigmoid(exp(A) (W x + b))))
    S' = Diag(α_t) S_{t-1};   S_t = S' + β_t k_t (v_t - S'ᵀ k_t)ᵀ;   o_t = S_tᵀ q_t / sqrt(K)
    out = W_out (rmsnorm(o) per head * sigmoid(G₂ G₁ x))

State: S [B,H,K,K] in fp32 and the last W-1 inputs of the convolution, [B,W-1,3HK].
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...kernels import l2_norm
from ..delta_recurrence import correct, correction_flops
from ..heads import split_heads
from ..initialization import inverse_softplus, log_uniform
from ..layer import Layer, LayerConfig, State, register
from ..linear_recurrence import zero_state, zero_state_bytes
from ..parts import RMSNorm, ShortConvolution, convolution_parameters, tail_bytes


@register
@dataclass(frozen=True, kw_only=True)
class KDAConfig(LayerConfig):
    """Kimi Delta Attention."""

    name = "kda"
    role = "mixer"

    n_heads: int | None = None
    """Heads. With ``head_dim`` left out, each is d_model / n_heads wide."""
    head_dim: int | None = None
    """K: width of a head. Given both, their product may differ from d_model. Given neither: nearest to 64."""
    d_conv: int = 4
    """Tokens that the convolution sees."""
    rank: int | None = None
    """Rank of the projections of decay and gate; left out: a head's width (Kimi Linear); 0: full matrices (Ling)."""
    decay_bound: float | None = None
    """The least log decay of a token, below 0 (Ling: -5); left out: softplus, without a bound."""
    norm_eps: float = 1e-5
    """Epsilon of the output's norm."""

    def __post_init__(self) -> None:
        self.require(self.d_conv >= 1, "d_conv", "at least 1")
        self.require(self.rank is None or self.rank >= 0, "rank", "at least 0")
        self.require(self.decay_bound is None or self.decay_bound < 0, "decay_bound", "below 0")

    def heads(self, d_model: int) -> tuple[int, int]:
        """(heads, width of a head)."""
        free = self.n_heads is not None and self.head_dim is not None
        width = self.n_heads * self.head_dim if free else d_model  # pyright: ignore[reportOperatorIssue]
        return split_heads(self.name, width, self.n_heads, self.head_dim)

    def bottleneck(self, d_model: int) -> int:
        """Rank of the projections of decay and gate, 0 for full matrices."""
        return self.heads(d_model)[1] if self.rank is None else self.rank

    def weights(self, d_model: int) -> int:
        """Entries of the matrices: queries, keys, values, output; β; decay and gate."""
        H, K = self.heads(d_model)
        rank = self.bottleneck(d_model)
        gates = rank * (d_model + H * K) if rank else d_model * H * K
        return d_model * (4 * H * K + H) + 2 * gates

    def build(self, d_model: int) -> "KDA":
        return KDA(self, d_model)

    def num_parameters(self, d_model: int) -> int:
        H, K = self.heads(d_model)
        vectors = H * K + H + K  # the decay's bias, A, and the norm
        return self.weights(d_model) + convolution_parameters(3 * H * K, self.d_conv, False) + vectors

    def flops_per_token(self, d_model: int, sequence_length: int) -> float:
        H, K = self.heads(d_model)
        return 2 * self.weights(d_model) + 6 * H * K * self.d_conv + correction_flops(H, K, K)

    def state_bytes(self, d_model: int, sequence_length: int, dtype: torch.dtype = torch.bfloat16) -> int:
        H, K = self.heads(d_model)
        return zero_state_bytes(H, K, K) + tail_bytes(3 * H * K, self.d_conv, dtype)


class KDA(Layer):
    """Built from a KDAConfig."""

    def __init__(self, config: KDAConfig, d_model: int) -> None:
        super().__init__()
        self.H, self.K = config.heads(d_model)
        inner, self.R = self.H * self.K, config.bottleneck(d_model)
        self.decay_bound = config.decay_bound
        self.in_proj = nn.Linear(d_model, 3 * inner + self.H + 2 * (self.R or inner), bias=False)
        self.conv = ShortConvolution(3 * inner, config.d_conv, bias=False)
        self.decay_proj = nn.Linear(self.R, inner, bias=False) if self.R else nn.Identity()
        self.decay_bias = nn.Parameter(inverse_softplus(log_uniform(inner, 1e-3, 1e-1)))
        self.A_log = nn.Parameter(torch.empty(self.H).uniform_(1, 16).log())
        self.gate_proj = nn.Linear(self.R, inner, bias=False) if self.R else nn.Identity()
        self.norm = RMSNorm(self.K, eps=config.norm_eps)
        self.out_proj = nn.Linear(inner, d_model, bias=False)

    def init_state(
        self, batch_size: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> State:
        return {
            "recurrent": zero_state(batch_size, self.H, self.K, self.K, device),
            "conv": self.conv.init_tail(batch_size, device=device, dtype=dtype),
        }

    def forward(self, x_BTD: Tensor, state: State | None = None) -> tuple[Tensor, State | None]:
        inner = self.H * self.K
        rank = self.R or inner
        qkv, beta, decay, gate = self.in_proj(x_BTD).split([3 * inner, self.H, rank, rank], dim=-1)
        q_BTHK, k_BTHK, v_BTHK = self.conv(qkv, state).unflatten(-1, (3, self.H, self.K)).unbind(2)
        o_BTHK = correct(
            l2_norm(q_BTHK), l2_norm(k_BTHK), v_BTHK, beta.float().sigmoid(), decay=self._decay(decay), state=state
        )
        return self.out_proj(self.norm(o_BTHK).flatten(2) * self.gate_proj(gate).sigmoid()), state

    def _decay(self, x_BTR: Tensor) -> Tensor:
        """log α [B,T,H,K], in fp32."""
        wanted_BTHK = (self.decay_proj(x_BTR).float() + self.decay_bias).unflatten(-1, (self.H, self.K))
        rate_H1 = self.A_log.float().exp()[:, None]
        if self.decay_bound is None:
            return -rate_H1 * F.softplus(wanted_BTHK)
        return self.decay_bound * (rate_H1 * wanted_BTHK).sigmoid()
