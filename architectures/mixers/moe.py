"""A mixture of experts: each token goes to the ``top_k`` of ``n_experts`` MLPs that its router likes best,
without a limit of capacity.

    p = softmax(W_r x);   y = Σ_{e in top k of p + b} p_e/Σp · expert_e(x) + shared experts(x)

Balance by loss (Fedus et al. 2021, equation 4): X Σ_e f_e P_e, f_e the share of choices that went to e and P_e its mean
probability. Balance without loss (Wang et al. 2024, "Auxiliary-loss-free"): b_e, which only chooses, moves up by a
fixed step after a batch that sent e too little, else down. It has no decoding state.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layer import Layer, State, register
from .mlp import MLP, FeedForwardConfig, activate


@register
@dataclass(frozen=True, kw_only=True)
class MoEConfig(FeedForwardConfig):
    """Experts of the ``mlp`` kind; ``hidden`` or ``ratio`` is the width of each."""

    name = "moe"

    n_experts: int = 8
    """X: routed experts."""
    top_k: int = 2
    """Routed experts that a token goes to."""
    n_shared: int = 0
    """Experts that every token goes to."""
    balance: Literal["loss", "bias", "none"] = "loss"
    """Load balancing: by an auxiliary loss, by a bias on the choice, or not at all."""
    balance_weight: float = 0.01
    """Weight of the auxiliary loss."""
    bias_step: float = 1e-3
    """What the bias moves per training step."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.n_experts >= 1, "n_experts", "at least 1")
        self.require(1 <= self.top_k <= self.n_experts, "top_k", f"from 1 to n_experts={self.n_experts}")
        self.require(self.n_shared >= 0, "n_shared", "at least 0")
        self.require(self.balance_weight >= 0, "balance_weight", "at least 0")
        self.require(self.bias_step >= 0, "bias_step", "at least 0")

    def build(self, d_model: int) -> "MoE":
        return MoE(self, d_model)

    def num_parameters(self, d_model: int) -> int:
        return d_model * self.n_experts + (self.n_experts + self.n_shared) * self.weights(d_model)

    def active_parameters(self, d_model: int) -> int:
        return d_model * self.n_experts + (self.top_k + self.n_shared) * self.weights(d_model)

    def flops_per_token(self, d_model: int, sequence_length: int) -> float:
        return 2 * self.active_parameters(d_model)

    def state_bytes(self, d_model: int, sequence_length: int, dtype: torch.dtype = torch.bfloat16) -> int:
        return 0


class MoE(Layer):
    """Built from a MoEConfig. ``tokens_per_expert`` [X] holds where the last forward sent its tokens."""

    tokens_per_expert: Tensor
    choice_bias: Tensor

    def __init__(self, config: MoEConfig, d_model: int) -> None:
        super().__init__()
        self.config = config
        X, width = config.n_experts, config.width(d_model)
        self.router = nn.Linear(d_model, X, bias=False)
        self.in_proj = nn.Parameter(torch.empty(X, d_model, config.n_inputs * width).uniform_(-1, 1) * d_model**-0.5)
        self.out_proj = nn.Parameter(torch.empty(X, width, d_model).uniform_(-1, 1) * width**-0.5)
        self.shared = MLP(config, d_model, copies=config.n_shared) if config.n_shared else None
        self.register_buffer("choice_bias", torch.zeros(X))
        self.register_buffer("tokens_per_expert", torch.zeros(X, dtype=torch.int64), persistent=False)

    def init_state(
        self, batch_size: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> State:
        return {}

    def forward(self, x_BTD: Tensor, state: State | None = None) -> tuple[Tensor, State | None]:
        x_ND = x_BTD.flatten(0, 1)
        p_NX = self.router(x_ND).float().softmax(-1)
        chosen_NK = (p_NX + self.choice_bias).topk(self.config.top_k, dim=-1).indices
        weight_NK = p_NX.gather(-1, chosen_NK)
        weight_NK = weight_NK / weight_NK.sum(-1, keepdim=True)
        self.tokens_per_expert = torch.bincount(chosen_NK.flatten(), minlength=self.config.n_experts)
        self._balance(p_NX)
        y_ND = self._routed(x_ND, chosen_NK, weight_NK.to(x_ND.dtype))
        if self.shared is not None:
            y_ND = y_ND + self.shared(x_ND)[0]
        return y_ND.view_as(x_BTD), state

    def _routed(self, x_ND: Tensor, chosen_NK: Tensor, weight_NK: Tensor) -> Tensor:
        """The weighted sum of the chosen experts. Choices are sorted by expert, so that each has one block of rows."""
        order = chosen_NK.flatten().argsort(stable=True)
        token = order // self.config.top_k
        rows = self._experts(x_ND[token])
        rows = rows * weight_NK.flatten()[order, None]
        return torch.zeros_like(x_ND, dtype=rows.dtype).index_add(0, token, rows)

    def _experts(self, rows: Tensor) -> Tensor:
        """Rows sorted by expert through their experts: one grouped product on a GPU that has it, else a loop."""
        w_in, w_out, activation = self.in_proj, self.out_proj, self.config.activation
        if rows.is_cuda and torch.is_autocast_enabled("cuda"):
            rows, w_in, w_out = (m.to(torch.get_autocast_dtype("cuda")) for m in (rows, w_in, w_out))
        if rows.is_cuda and rows.dtype == torch.bfloat16 and _aligned(w_in) and _aligned(w_out):
            ends = self.tokens_per_expert.cumsum(0).to(torch.int32)
            return F.grouped_mm(activate(F.grouped_mm(rows, w_in, offs=ends), activation), w_out, offs=ends)
        blocks = rows.split(self.tokens_per_expert.tolist())
        return torch.cat([activate(block @ w_in[e], activation) @ w_out[e] for e, block in enumerate(blocks)])

    def _balance(self, p_NX: Tensor) -> None:
        """Sets the auxiliary loss, or moves the bias; while training only."""
        self.auxiliary_loss = None
        if not self.training or self.config.balance == "none":
            return
        share_X = self.tokens_per_expert / self.tokens_per_expert.sum()
        if self.config.balance == "loss":
            self.auxiliary_loss = self.config.balance_weight * self.config.n_experts * (share_X * p_NX.mean(0)).sum()
        else:
            self.choice_bias = self.choice_bias + self.config.bias_step * (1 / self.config.n_experts - share_X).sign()


def _aligned(weight: Tensor) -> bool:
    """Whether the grouped product takes it: rows of 16 bytes' multiples."""
    return all(size * weight.itemsize % 16 == 0 for size in weight.shape[1:])
