"""A mixture of experts: each token goes to the ``top_k`` of ``n_experts`` MLPs that its router likes best,
without a limit of capacity.

    p = softmax(W_r x);   y = Σ_{e in top k of p + b} p_e/Σp · expert_e(x) + shared experts(x)

Variants: p = sigmoid(W_r x), weights scaled by a constant, and the choice narrowed first to the groups of experts whose
two best have the largest sums (DeepSeek-V3, section 2.1.2; Kimi Linear); shared experts under a gate sigmoid(w x)
(Qwen2-MoE, Qwen3-Next).

Balance by loss (Fedus et al. 2021, equation 4): X Σ_e f_e P_e, f_e the share of choices that went to e and P_e its mean
probability. Balance without loss (Wang et al. 2024, "Auxiliary-loss-free"): b_e, which only chooses, moves up by a
fixed step after a batch that sent e too little, else down. It has no decoding state.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..heads import require_divides
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
    shared_hidden: int | None = None
    """Width of all shared experts together; left out: as wide each as a routed one."""
    latent: int | None = None
    """Width that the routed experts work in, between two projections that all share (Nemotron 3 Super); left out:
    d_model."""
    shared_gate: bool = False
    """Multiply what the shared experts give by sigmoid(w x)."""
    score: Literal["softmax", "sigmoid"] = "softmax"
    """What makes p of the router's products."""
    renormalize: bool = True
    """Divide the chosen experts' p by their sum."""
    scale: float = 1.0
    """Multiplies the chosen experts' weights."""
    n_groups: int = 1
    """Groups of experts, a divisor of their number, of which only ``top_groups`` are open to a token."""
    top_groups: int = 1
    """Groups that are open to a token."""
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
        self.require(self.n_shared > 0 or not self.shared_gate, "shared_gate", "false where n_shared=0")
        self.require(
            self.shared_hidden is None or (self.shared_hidden >= 1 and self.n_shared > 0),
            "shared_hidden",
            "at least 1, and left out where n_shared=0",
        )
        self.require(self.latent is None or self.latent >= 1, "latent", "at least 1")
        require_divides(self.name, "n_groups", self.n_groups, "n_experts", self.n_experts)
        self.require(
            self.n_groups == 1 or self.n_experts >= 2 * self.n_groups,
            "n_groups",
            f"at most half of n_experts={self.n_experts}: a group's score is the sum of its two best",
        )
        self.require(1 <= self.top_groups <= self.n_groups, "top_groups", f"from 1 to n_groups={self.n_groups}")
        open_experts = self.top_groups * self.n_experts // self.n_groups
        self.require(
            self.top_k <= open_experts, "top_k", f"at most {open_experts}, the experts of {self.top_groups} groups"
        )
        self.require(self.balance_weight >= 0, "balance_weight", "at least 0")
        self.require(self.bias_step >= 0, "bias_step", "at least 0")

    def build(self, d_model: int) -> "MoE":
        return MoE(self, d_model)

    def shared_width(self, d_model: int) -> int:
        """Of all shared experts together, 0 without."""
        return self.shared_hidden or self.n_shared * self.width(d_model)

    def for_every_token(self, d_model: int) -> int:
        """Entries of the router, the projections to the latent width and back, the shared experts and their gate."""
        shared = d_model * self.shared_width(d_model) * (self.n_inputs + 1)
        return d_model * (self.n_experts + self.shared_gate + 2 * (self.latent or 0)) + shared

    def of_an_expert(self, d_model: int) -> int:
        """Entries of a routed expert."""
        return (self.latent or d_model) * self.width(d_model) * (self.n_inputs + 1)

    def num_parameters(self, d_model: int) -> int:
        return self.for_every_token(d_model) + self.n_experts * self.of_an_expert(d_model)

    def active_parameters(self, d_model: int) -> int:
        return self.for_every_token(d_model) + self.top_k * self.of_an_expert(d_model)

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
        X, width, within = config.n_experts, config.width(d_model), config.latent or d_model
        self.router = nn.Linear(d_model, X, bias=False)
        self.to_latent = nn.Linear(d_model, within, bias=False) if config.latent else None
        self.from_latent = nn.Linear(within, d_model, bias=False) if config.latent else None
        self.in_proj = nn.Parameter(torch.empty(X, within, config.n_inputs * width).uniform_(-1, 1) * within**-0.5)
        self.out_proj = nn.Parameter(torch.empty(X, width, within).uniform_(-1, 1) * width**-0.5)
        self.shared = MLP(config, d_model, width=config.shared_width(d_model)) if config.n_shared else None
        self.shared_gate = nn.Linear(d_model, 1, bias=False) if config.shared_gate else None
        self.register_buffer("choice_bias", torch.zeros(X))
        self.register_buffer("tokens_per_expert", torch.zeros(X, dtype=torch.int64), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "MoE":
        """Moves to a device or dtype; the bias on the choice stays fp32, as its steps are below bf16's."""
        kept = self.choice_bias.float()
        super()._apply(fn, recurse)
        if not kept.is_meta:
            self.choice_bias = kept.to(self.choice_bias.device)
        return self

    def init_state(
        self, batch_size: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> State:
        return {}

    def forward(self, x_BTD: Tensor, state: State | None = None) -> tuple[Tensor, State | None]:
        x_ND = x_BTD.flatten(0, 1)
        scores_NX = self.router(x_ND).float()
        p_NX = scores_NX.softmax(-1) if self.config.score == "softmax" else scores_NX.sigmoid()
        chosen_NK = self._open(p_NX + self.choice_bias).topk(self.config.top_k, dim=-1).indices
        weight_NK = p_NX.gather(-1, chosen_NK)
        if self.config.renormalize:
            weight_NK = weight_NK / weight_NK.sum(-1, keepdim=True)
        weight_NK = self.config.scale * weight_NK
        # Not bincount, which waits for the device to learn the greatest index: a CUDA graph of a step could not.
        ones = torch.ones_like(chosen_NK.flatten())
        self.tokens_per_expert = torch.zeros_like(self.tokens_per_expert).scatter_add(0, chosen_NK.flatten(), ones)
        self._balance(p_NX if self.config.score == "softmax" else p_NX / p_NX.sum(-1, keepdim=True))
        latent_ND = x_ND if self.to_latent is None else self.to_latent(x_ND)
        y_ND = self._routed(latent_ND, chosen_NK, weight_NK.to(x_ND.dtype))
        y_ND = y_ND if self.from_latent is None else self.from_latent(y_ND)
        if self.shared is not None:
            shared_ND = self.shared(x_ND)[0]
            y_ND = y_ND + (shared_ND if self.shared_gate is None else self.shared_gate(x_ND).sigmoid() * shared_ND)
        return y_ND.view_as(x_BTD), state

    def _open(self, p_NX: Tensor) -> Tensor:
        """p, minus infinity outside of the groups that are open to the token."""
        groups, chosen = self.config.n_groups, self.config.top_groups
        if chosen == groups:
            return p_NX
        p_NGE = p_NX.unflatten(-1, (groups, -1))
        best_NG = p_NGE.topk(2, dim=-1).values.sum(-1)
        closed_NG = torch.ones_like(best_NG, dtype=torch.bool)
        closed_NG = closed_NG.scatter(-1, best_NG.topk(chosen, dim=-1).indices, False)
        return p_NGE.masked_fill(closed_NG[..., None], -torch.inf).flatten(-2)

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

    @property
    def capacity(self) -> Tensor:
        return self.tokens_per_expert.max() / self.tokens_per_expert.float().mean()

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
