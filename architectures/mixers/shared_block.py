"""Zamba's shared block (Glorioso et al. 2024, section 2, figure 2; Zamba2: arXiv:2411.15242): attention and an MLP on
the stream beside the embedding of the tokens, whose output goes into the next layer alone.

    x = rmsnorm([h; e]) of 2D;   a = W_o softmax(q kᵀ / sqrt(K/2)) v, q, k, v = (W + A_u B_u) x;
    m = W_out (gelu(g) * u), g, u = (W_in + A'_u B'_u) rmsnorm(a);   out = P_u m

P_u, and the low-rank adapters A_u B_u where there are any, belong to the place u; the rest is shared by all places of a
label. Neither a nor m is added to anything. State: keys [B,S,kv heads,K] and values of every token, and the position.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ..context import EMBEDDING, Context
from ..layer import Layer, NormPlace, State, register
from ..parts import RMSNorm
from .attn import Attention, AttentionConfig
from .mlp import MLP, Activation, FeedForwardConfig, activate


@register
@dataclass(frozen=True, kw_only=True)
class SharedBlockConfig(FeedForwardConfig):
    """Attention and an MLP that read the embedding too, to be used at many places under one label."""

    name = "shared_block"
    role = "mixer"

    norm: NormPlace = "none"
    """Its norms are its own."""
    adds_to: Literal["stream", "next"] = "next"
    """Only the next sublayer's input has its output."""
    activation: Activation = "geglu"
    """The MLP's, as in ``mlp``."""
    n_heads: int | None = None
    """Query heads; left out: by ``head_dim``."""
    head_dim: int | None = None
    """Width of a head; left out: 2 d_model / n_heads, or given neither 64 or as near as it can be."""
    n_kv_heads: int | None = None
    """Heads of keys and values, a divisor of the query heads; left out: as many."""
    rope: bool = False
    """Rotary positions (else none)."""
    rope_base: float = 10_000.0
    """Longest wavelength of the rotation is 2π times this, in tokens."""
    adapter_rank: int = 0
    """Rank of each place's own adapters of the MLP's input; 0: none."""
    attention_adapters: bool = False
    """Adapters of that rank for queries, keys and values too."""
    bias: bool = False
    """Biases of the MLP."""
    norm_eps: float = 1e-5
    """Epsilon of both norms."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.norm == "none", "norm", "none: it has norms of its own")
        self.require(self.adapter_rank >= 0, "adapter_rank", "at least 0")
        self.require(
            not self.attention_adapters or self.adapter_rank > 0, "attention_adapters", "false where adapter_rank=0"
        )

    @property
    def reads(self) -> tuple[str, ...]:
        return (EMBEDDING,)

    def attention(self, d_model: int) -> AttentionConfig:
        """The attention's config; its input is 2 d_model wide."""
        free = AttentionConfig(n_heads=self.n_heads, head_dim=self.head_dim, rope=self.rope)
        H, _, K = free.heads(2 * d_model)
        return AttentionConfig(
            n_heads=H,
            head_dim=K,
            n_kv_heads=self.n_kv_heads,
            rope=self.rope,
            rope_base=self.rope_base,
            scale=(K / 2) ** -0.5,
        )

    def projected(self, d_model: int) -> tuple[int, int]:
        """(width of queries, keys and values together; width of the heads' output)."""
        H, G, K = self.attention(d_model).heads(d_model)
        return (H + 2 * G) * K, H * K

    def matrices(self, d_model: int) -> int:
        """Entries of the shared matrices."""
        qkv, inner = self.projected(d_model)
        return 2 * d_model * qkv + inner * d_model + self.weights(d_model)

    def own_matrices(self, d_model: int) -> int:
        """Entries of a place's own matrices: the projection, and the adapters."""
        qkv, _ = self.projected(d_model)
        widths = d_model + self.n_inputs * self.width(d_model)
        if self.attention_adapters:
            widths += 3 * 2 * d_model + qkv
        return d_model**2 + self.adapter_rank * widths

    def build(self, d_model: int) -> "SharedBlock":
        return SharedBlock(self, d_model)

    def build_per_use(self, d_model: int) -> "OwnWeights":
        return OwnWeights(self, d_model)

    def num_parameters(self, d_model: int) -> int:
        biases = self.n_inputs * self.width(d_model) + d_model
        return self.matrices(d_model) + 3 * d_model + self.bias * biases

    def parameters_per_use(self, d_model: int) -> int:
        return self.own_matrices(d_model)

    def flops_per_token(self, d_model: int, sequence_length: int) -> float:
        attention = self.attention(d_model)
        scores = attention.flops_per_token(d_model, sequence_length) - 2 * attention.num_parameters(d_model)
        return 2 * (self.matrices(d_model) + self.own_matrices(d_model)) + scores

    def state_bytes(self, d_model: int, sequence_length: int, dtype: torch.dtype = torch.bfloat16) -> int:
        return self.attention(d_model).state_bytes(d_model, sequence_length, dtype)


class Adapter(nn.Module):
    """x ↦ B A x of low rank, zero at first (Hu et al. 2021, section 4.1)."""

    def __init__(self, width: int, rank: int, out_width: int) -> None:
        super().__init__()
        self.down_proj = nn.Linear(width, rank, bias=False)
        self.up_proj = nn.Linear(rank, out_width, bias=False)
        nn.init.zeros_(self.up_proj.weight)

    def forward(self, x: Tensor) -> Tensor:
        """[...,width] to [...,out_width]."""
        return self.up_proj(self.down_proj(x))


class OwnWeights(nn.Module):
    """What a place has for itself."""

    def __init__(self, config: SharedBlockConfig, d_model: int) -> None:
        super().__init__()
        self.out_proj = nn.Linear(d_model, d_model, bias=False)
        rank = config.adapter_rank
        H, G, K = config.attention(d_model).heads(d_model)
        self.attention = (
            nn.ModuleList(Adapter(2 * d_model, rank, heads * K) for heads in (H, G, G))
            if config.attention_adapters
            else None
        )
        self.mlp = Adapter(d_model, rank, config.n_inputs * config.width(d_model)) if rank else None


class SharedBlock(Layer):
    """Built from a SharedBlockConfig."""

    def __init__(self, config: SharedBlockConfig, d_model: int) -> None:
        super().__init__()
        attention = config.attention(d_model)
        self.norm = RMSNorm(2 * d_model, eps=config.norm_eps)
        self.attention = Attention(attention, d_model, in_width=2 * d_model)
        self.mlp_norm = RMSNorm(d_model, eps=config.norm_eps)
        self.mlp = MLP(config, d_model, bias=config.bias)

    def init_state(
        self, batch_size: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> State:
        return self.attention.init_state(batch_size, device=device, dtype=dtype)

    def forward(
        self, x_BTD: Tensor, state: State | None = None, context: Context | None = None
    ) -> tuple[Tensor, State | None]:
        assert context is not None
        own = context.own
        assert isinstance(own, OwnWeights)
        both_BTE = self.norm(torch.cat([x_BTD, context.read(EMBEDDING)], dim=-1))
        qkv = self.attention.qkv_proj(both_BTE)
        if own.attention is not None:
            qkv = qkv + torch.cat([adapter(both_BTE) for adapter in own.attention], dim=-1)
        read_BTD = self.mlp_norm(self.attention.out_proj(self.attention.heads(qkv, state)))
        hidden = self.mlp.in_proj(read_BTD)
        if own.mlp is not None:
            hidden = hidden + own.mlp(read_BTD)
        return own.out_proj(self.mlp.out_proj(activate(hidden, self.mlp.activation))), state
