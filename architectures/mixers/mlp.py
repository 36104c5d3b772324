"""The feed-forward layer: SwiGLU, W_out(silu(W_gate x) * W_up x), or GeGLU with GELU for silu (Shazeer 2020), or
W_out f(W_in x) with f GELU or the squared ReLU (So et al. 2021). It has no state.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layer import Layer, LayerConfig, State, register

Activation = Literal["swiglu", "geglu", "geglu_tanh", "gelu", "relu2"]
GATED = ("swiglu", "geglu", "geglu_tanh")
HIDDEN_MULTIPLE = 8


@dataclass(frozen=True, kw_only=True)
class FeedForwardConfig(LayerConfig):
    """What an MLP and an expert have in common: activation and width."""

    role = "mlp"

    activation: Activation = "swiglu"
    """swiglu, geglu (Zamba), geglu_tanh (Gemma's approximation of it), gelu or relu2."""
    hidden: int | None = None
    """Hidden width; left out: ``ratio`` times d_model, to the nearest multiple of 8."""
    ratio: float | None = None
    """Hidden width over d_model; left out: 8/3 where gated, 4 else, so that both cost 8 d_model² parameters."""

    def __post_init__(self) -> None:
        self.require(self.hidden is None or self.hidden >= 1, "hidden", "at least 1")
        self.require(self.ratio is None or self.ratio > 0, "ratio", "above 0")
        self.require(
            self.hidden is None or self.ratio is None, "ratio", f"left out where hidden={self.hidden} is given"
        )

    def width(self, d_model: int) -> int:
        """The hidden width."""
        if self.hidden is not None:
            return self.hidden
        ratio = self.ratio or (8 / 3 if self.activation in GATED else 4.0)
        return max(1, round(ratio * d_model / HIDDEN_MULTIPLE)) * HIDDEN_MULTIPLE

    @property
    def n_inputs(self) -> int:
        """Input matrices: gate and up, or one."""
        return 2 if self.activation in GATED else 1

    def weights(self, d_model: int) -> int:
        """Entries of the matrices of one MLP or expert."""
        return d_model * self.width(d_model) * (self.n_inputs + 1)


@register
@dataclass(frozen=True, kw_only=True)
class MLPConfig(FeedForwardConfig):
    """A dense MLP."""

    name = "mlp"

    bias: bool = False
    """Biases of all its matrices."""

    def build(self, d_model: int) -> "MLP":
        return MLP(self, d_model, bias=self.bias)

    def num_parameters(self, d_model: int) -> int:
        biases = self.n_inputs * self.width(d_model) + d_model
        return self.weights(d_model) + self.bias * biases

    def flops_per_token(self, d_model: int, sequence_length: int) -> float:
        return 2 * self.weights(d_model)

    def state_bytes(self, d_model: int, sequence_length: int, dtype: torch.dtype = torch.bfloat16) -> int:
        return 0


def activate(x: Tensor, activation: Activation) -> Tensor:
    """The activation over the last axis; a gated one halves it: (gate, up) in this order."""
    if activation in GATED:
        gate, up = x.chunk(2, dim=-1)
        if activation == "swiglu":
            return F.silu(gate) * up
        return F.gelu(gate, approximate="tanh" if activation == "geglu_tanh" else "none") * up
    return F.gelu(x) if activation == "gelu" else F.relu(x).square()


class MLP(Layer):
    """Built from an MLPConfig (or from an expert's)."""

    def __init__(
        self, config: FeedForwardConfig, d_model: int, *, width: int | None = None, bias: bool = False
    ) -> None:
        """``width`` replaces the config's own, for experts side by side that are one wider MLP."""
        super().__init__()
        self.activation: Activation = config.activation
        width = width or config.width(d_model)
        self.in_proj = nn.Linear(d_model, config.n_inputs * width, bias=bias)
        self.out_proj = nn.Linear(width, d_model, bias=bias)

    def init_state(
        self, batch_size: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> State:
        return {}

    def forward(self, x_BTD: Tensor, state: State | None = None) -> tuple[Tensor, State | None]:
        return self.out_proj(activate(self.in_proj(x_BTD), self.activation)), state
