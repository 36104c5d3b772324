"""RWKV-6's time mixing (Peng et al. 2024, "Eagle and Finch", section 4.2): a decay per token and channel, and a
bonus u for the token itself.

    ddlerp_i(a, b) = a + (b-a) * (μ_i + tanh((a + (b-a) * μ_x) A_i) B_i)        a = x_t, b = x_{t-1}; i in w, k, v, r, g
    w_t = exp(-exp(ω + tanh(ddlerp_w A) B));   S_t = Diag(w_t) S_{t-1} + k_t v_tᵀ
    o_t = r_tᵀ (S_{t-1} + Diag(u) k_t v_tᵀ);   out = W_out (silu(g_t) * groupnorm(o_t))

State: S [B,H,K,K] in fp32 and the last input [B,D]. Initial values are the official trainer's for a layer in the
middle of the stack: there they vary with depth, which a layer here does not know.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..heads import split_heads
from ..layer import Layer, LayerConfig, State, register
from ..linear_recurrence import recur, recurrence_flops, zero_state, zero_state_bytes
from ..token_shift import ramp, shift

N_MIXES = 5  # decay, key, value, receptance, gate: in this order
DEPTH = 0.5  # of the layer in the stack, from 0 to 1
GROUP_NORM_EPS = 64e-5


@register
@dataclass(frozen=True, kw_only=True)
class RWKV6Config(LayerConfig):
    """RWKV-6's time mixing; its channel mixing is ``rwkv_channel``."""

    name = "rwkv6"
    role = "mixer"

    n_heads: int | None = None
    """Heads; left out: by ``head_dim``."""
    head_dim: int | None = None
    """K: width of a head; left out: the divisor of d_model nearest to 64."""
    mix_rank: int = 32
    """Rank of each of the five data-dependent shifts."""
    decay_rank: int = 64
    """Rank of the data-dependent decay."""

    def __post_init__(self) -> None:
        self.require(self.mix_rank >= 1, "mix_rank", "at least 1")
        self.require(self.decay_rank >= 1, "decay_rank", "at least 1")

    def heads(self, d_model: int) -> tuple[int, int]:
        """(heads, width of a head)."""
        return split_heads(self.name, d_model, self.n_heads, self.head_dim)

    def weights(self, d_model: int) -> int:
        """Entries of the matrices: k, v, r, g and output; the shifts' and the decay's factors."""
        return 5 * d_model**2 + 2 * d_model * (N_MIXES * self.mix_rank + self.decay_rank)

    def build(self, d_model: int) -> "RWKV6":
        return RWKV6(self, d_model)

    def num_parameters(self, d_model: int) -> int:
        H, K = self.heads(d_model)
        vectors = 1 + N_MIXES + 1 + 2  # μ_x, the μ_i, ω, and the group norm's weight and bias
        return self.weights(d_model) + vectors * d_model + H * K

    def flops_per_token(self, d_model: int, sequence_length: int) -> float:
        H, K = self.heads(d_model)
        return 2 * self.weights(d_model) + recurrence_flops(H, K, K)

    def state_bytes(self, d_model: int, sequence_length: int, dtype: torch.dtype = torch.bfloat16) -> int:
        H, K = self.heads(d_model)
        return zero_state_bytes(H, K, K) + d_model * dtype.itemsize


class RWKV6(Layer):
    """Built from an RWKV6Config."""

    def __init__(self, config: RWKV6Config, d_model: int) -> None:
        super().__init__()
        self.H, self.K = config.heads(d_model)
        rank, along = config.mix_rank, ramp(d_model)
        powers = torch.tensor([1.0, 1.0, 1.0, 0.5, 0.5])[:, None] * (1 - DEPTH)
        mixes = 1 - along**powers
        mixes[2] -= 0.3 * DEPTH  # values lean towards the token itself
        self.mix_x = nn.Parameter(1 - along ** (1 - DEPTH))
        self.mixes = nn.Parameter(mixes)
        self.mix_down = nn.Parameter(torch.zeros(d_model, N_MIXES * rank))
        self.mix_up = nn.Parameter(torch.empty(N_MIXES, rank, d_model).uniform_(-0.01, 0.01))
        reach = torch.arange(d_model) / max(1, d_model - 1)
        self.decay = nn.Parameter(-6 + 5 * reach ** (0.7 + 1.3 * DEPTH))
        self.decay_down = nn.Parameter(torch.zeros(d_model, config.decay_rank))
        self.decay_up = nn.Parameter(torch.empty(config.decay_rank, d_model).uniform_(-0.01, 0.01))
        zigzag = 0.1 * ((torch.arange(d_model) + 1) % 3 - 1)
        self.bonus = nn.Parameter((DEPTH * (1 - reach) + zigzag).view(self.H, self.K))
        self.k_proj, self.v_proj, self.r_proj, self.g_proj, self.out_proj = (
            nn.Linear(d_model, d_model, bias=False) for _ in range(5)
        )
        self.group_norm = nn.GroupNorm(self.H, d_model, eps=GROUP_NORM_EPS)

    def init_state(
        self, batch_size: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> State:
        d_model = self.decay.shape[0]
        return {
            "recurrent": zero_state(batch_size, self.H, self.K, self.K, device),
            "previous": torch.zeros(batch_size, d_model, device=device, dtype=dtype),
        }

    def forward(self, x_BTD: Tensor, state: State | None = None) -> tuple[Tensor, State | None]:
        w, k, v, r, g = self._mix(x_BTD, shift(x_BTD, state))
        decay = -torch.exp((self.decay + torch.tanh(w @ self.decay_down) @ self.decay_up).float())
        k, v, r = self.k_proj(k), self.v_proj(v), self.r_proj(r)
        k, v, r, decay = (m.unflatten(-1, (self.H, self.K)) for m in (k, v, r, decay))
        o_BTHK = recur(r, k, v, decay=decay, bonus=self.bonus, scale=1.0, state=state)
        o_BTD = self.group_norm(o_BTHK.flatten(2).flatten(0, 1)).view_as(x_BTD)
        return self.out_proj(o_BTD * F.silu(self.g_proj(g))), state

    def _mix(self, x_BTD: Tensor, previous_BTD: Tensor) -> tuple[Tensor, ...]:
        """The five inputs, each its own blend of this token and the one before."""
        back_BTD = previous_BTD - x_BTD
        low = torch.tanh((x_BTD + back_BTD * self.mix_x) @ self.mix_down).unflatten(-1, (N_MIXES, -1))
        shifts = torch.einsum("btir,ird->ibtd", low, self.mix_up)
        return tuple(x_BTD + back_BTD * (mix + moved) for mix, moved in zip(self.mixes, shifts, strict=True))
