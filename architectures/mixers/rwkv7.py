"""RWKV-7's time mixing (Peng et al. 2025, "Goose", section 4): a decay and a rate of correction per channel.

    x_i = x + (x_prev - x) * μ_i for i in r, w, k, v, a, g;   w = exp(-e^(-1/2) sigmoid(ω + tanh(x_w A) B))
    a = sigmoid(a₀ + x_a A B);   κ = k * ξ, of norm 1 per head;   k' = k * (1 + (a - 1) * α);   g = sigmoid(x_g A) B
    S_t = (Diag(w) - (κ * a) κᵀ) S_{t-1} + k' vᵀ;   o = S_tᵀ r;   out = W_out (g * (groupnorm(o) + (Σ r k' ρ) v))

The paper's first layer shares its values, and the later ones blend theirs with them:
v ← v + (v_first - v) * sigmoid(ν + x_v A B).

State: S [B,H,K,K] in fp32 and the last input [B,D]. Initial values are the official trainer's for a layer in the middle
of the stack.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...kernels import l2_norm
from ..context import Context
from ..delta_recurrence import correct_general, general_correction_flops
from ..heads import split_heads
from ..layer import Layer, LayerConfig, State, register
from ..linear_recurrence import zero_state, zero_state_bytes
from ..token_shift import ramp, shift

DEPTH = 0.5  # of the layer in the stack, from 0 to 1
GROUP_NORM_EPS = 64e-5
MIX_POWERS = (0.2, 0.9, 0.7, 0.7, 0.9, 0.2)  # of r, w, k, v, a, g
RANK_MULTIPLE = 32
FIRST_VALUES = "first_values"


@register
@dataclass(frozen=True, kw_only=True)
class RWKV7Config(LayerConfig):
    """RWKV-7's time mixing; its channel mixing is ``rwkv_channel{gate=false}``."""

    name = "rwkv7"
    role = "mixer"

    n_heads: int | None = None
    """Heads; left out: by ``head_dim``."""
    head_dim: int | None = None
    """K: width of a head; left out: the divisor of d_model nearest to 64."""
    decay_rank: int | None = None
    """Rank of the decay's projection; left out: 1.8 sqrt(D), to a multiple of 32 (the paper's)."""
    rate_rank: int | None = None
    """Rank of the rate's projection (a); left out: as ``decay_rank``."""
    gate_rank: int | None = None
    """Rank of the gate's projection; left out: 0.6 D^0.8, to a multiple of 32 (the paper's)."""
    first_values: Literal["own", "share", "blend"] = "own"
    """share: later layers may blend these values with theirs (the paper's first layer); blend: with those of the
    nearest earlier layer that shares (its others); own: neither."""
    value_rank: int | None = None
    """Rank of the blend's projection; left out: 1.3 sqrt(D), to a multiple of 32 (the paper's)."""

    def __post_init__(self) -> None:
        for field in ("decay_rank", "rate_rank", "gate_rank", "value_rank"):
            self.require(getattr(self, field) is None or getattr(self, field) >= 1, field, "at least 1")

    @property
    def reads(self) -> tuple[str, ...]:
        return (FIRST_VALUES,) if self.first_values == "blend" else ()

    @property
    def shares(self) -> tuple[str, ...]:
        return (FIRST_VALUES,) if self.first_values == "share" else ()

    def heads(self, d_model: int) -> tuple[int, int]:
        """(heads, width of a head)."""
        return split_heads(self.name, d_model, self.n_heads, self.head_dim)

    def ranks(self, d_model: int) -> tuple[int, int, int, int]:
        """(decay, rate, gate, blend of values: 0 where there is none)."""
        narrow, wide = _rank(1.8 * d_model**0.5), _rank(0.6 * d_model**0.8)
        decay = self.decay_rank or narrow
        value = (self.value_rank or _rank(1.3 * d_model**0.5)) if self.first_values == "blend" else 0
        return decay, self.rate_rank or decay, self.gate_rank or wide, value

    def weights(self, d_model: int) -> int:
        """Entries of the matrices: r, k, v and output; both factors of decay, rate, gate and blend."""
        return 4 * d_model**2 + 2 * d_model * sum(self.ranks(d_model))

    def build(self, d_model: int) -> "RWKV7":
        return RWKV7(self, d_model)

    def num_parameters(self, d_model: int) -> int:
        self.heads(d_model)
        vectors = 6 + 2 + 3 + 2 + (self.first_values == "blend")  # the μ_i; ω, a₀; ξ, α, ρ; the group norm's two; ν
        return self.weights(d_model) + vectors * d_model

    def flops_per_token(self, d_model: int, sequence_length: int) -> float:
        H, K = self.heads(d_model)
        return 2 * self.weights(d_model) + general_correction_flops(H, K, K)

    def state_bytes(self, d_model: int, sequence_length: int, dtype: torch.dtype = torch.bfloat16) -> int:
        H, K = self.heads(d_model)
        return zero_state_bytes(H, K, K) + d_model * dtype.itemsize


def _rank(value: float) -> int:
    return max(1, round(value / RANK_MULTIPLE)) * RANK_MULTIPLE


class RWKV7(Layer):
    """Built from an RWKV7Config."""

    def __init__(self, config: RWKV7Config, d_model: int) -> None:
        super().__init__()
        self.H, self.K = config.heads(d_model)
        self.first_values = config.first_values
        decay, rate, gate, value = config.ranks(d_model)
        powers = torch.tensor(MIX_POWERS)[:, None] * (1 - DEPTH)
        self.mixes = nn.Parameter(1 - ramp(d_model) ** powers)
        along = torch.arange(d_model) / max(1, d_model - 1)
        within = 2 * (torch.arange(d_model) % self.K) / max(1, self.K - 1) - 1
        zigzag = within * within.abs()
        self.decay = nn.Parameter(-5.5 + 5 * along ** (1 + DEPTH**0.3) + 2.5 * zigzag)
        self.decay_down, self.decay_up = _factors(d_model, decay)
        self.rate = nn.Parameter(-0.19 + 0.3 * zigzag + 0.4 * (along - 0.5))
        self.rate_down, self.rate_up = _factors(d_model, rate)
        self.gate_down, self.gate_up = _factors(d_model, gate)
        if self.first_values == "blend":
            self.blend = nn.Parameter(0.73 - 0.4 * (along - 0.5))
            self.blend_down, self.blend_up = _factors(d_model, value)
        self.removal = nn.Parameter(0.71 - 0.1 * (along - 0.5))
        self.replacement = nn.Parameter(torch.full((d_model,), 1.02))
        self.bonus = nn.Parameter(torch.full((self.H, self.K), -0.04))
        self.r_proj, self.k_proj, self.v_proj, self.out_proj = (
            nn.Linear(d_model, d_model, bias=False) for _ in range(4)
        )
        nn.init.uniform_(self.k_proj.weight, -0.05 * d_model**-0.5, 0.05 * d_model**-0.5)
        self.group_norm = nn.GroupNorm(self.H, d_model, eps=GROUP_NORM_EPS)

    def init_state(
        self, batch_size: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> State:
        return {
            "recurrent": zero_state(batch_size, self.H, self.K, self.K, device),
            "previous": torch.zeros(batch_size, self.decay.shape[0], device=device, dtype=dtype),
        }

    def forward(
        self, x_BTD: Tensor, state: State | None = None, context: Context | None = None
    ) -> tuple[Tensor, State | None]:
        back_BTD = shift(x_BTD, state) - x_BTD
        r, w, k, v, a, g = (x_BTD + back_BTD * mix for mix in self.mixes)
        decay = self.decay + torch.tanh(w @ self.decay_down) @ self.decay_up
        decay = -torch.exp(-F.softplus(-decay.float()) - 0.5)
        rate = (self.rate + a @ self.rate_down @ self.rate_up).sigmoid()
        gate = (g @ self.gate_down).sigmoid() @ self.gate_up
        k, v, r = self.k_proj(k), self._values(v, context), self.r_proj(r)
        removed = self._heads(k * self.removal)
        k = k * (1 + (rate - 1) * self.replacement)
        r_BTHK, k_BTHK, v_BTHK, rate_BTHK, decay_BTHK = (self._heads(m) for m in (r, k, v, rate, decay))
        removed_BTHK = l2_norm(removed)
        o_BTHK = correct_general(
            r_BTHK, k_BTHK, v_BTHK, -removed_BTHK, removed_BTHK * rate_BTHK, decay=decay_BTHK, state=state
        )
        o_BTD = self.group_norm(o_BTHK.flatten(2).flatten(0, 1)).view_as(x_BTD)
        own_BTHK = (r_BTHK * k_BTHK * self.bonus).sum(-1, keepdim=True) * v_BTHK
        return self.out_proj((o_BTD + own_BTHK.flatten(2)) * gate), state

    def _values(self, v_BTD: Tensor, context: Context | None) -> Tensor:
        """Projected from their mix, and shared or blended."""
        own_BTD = self.v_proj(v_BTD)
        if self.first_values == "own":
            return own_BTD
        assert context is not None
        if self.first_values == "share":
            context.share(FIRST_VALUES, own_BTD)
            return own_BTD
        share_BTD = (self.blend + v_BTD @ self.blend_down @ self.blend_up).sigmoid()
        return own_BTD + (context.read(FIRST_VALUES) - own_BTD) * share_BTD

    def _heads(self, x_BTD: Tensor) -> Tensor:
        return x_BTD.unflatten(-1, (self.H, self.K))


def _factors(d_model: int, rank: int) -> tuple[nn.Parameter, nn.Parameter]:
    """A [D,R] of zeros and an orthogonal B [R,D] of gain 0.1: their product starts at nothing."""
    up = torch.empty(rank, d_model)
    return nn.Parameter(torch.zeros(d_model, rank)), nn.Parameter(nn.init.orthogonal_(up, gain=0.1))
