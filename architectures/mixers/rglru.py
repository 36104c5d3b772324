"""Griffin's recurrent block (De et al. 2024, section 2.4): a real-gated linear recurrence after a short convolution.

    x = conv(W_x u);   r, i = sigmoid(W_r x + b_r), sigmoid(W_i x + b_i) in blocks;   a = exp(-8 softplus(Λ) r)
    h_t = a_t h_{t-1} + sqrt(1 - a_t²) (i_t x_t), the first token unscaled;   out = W_out (h * gelu(W_y u))

State: h [B,E,1] in fp32, the last W-1 inputs of the convolution [B,W-1,E], and the position [B].
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..heads import split_heads
from ..layer import Layer, LayerConfig, State, register
from ..linear_recurrence import POSITION_BYTES
from ..parts import ShortConvolution, convolution_parameters, tail_bytes
from ..rotary import positions
from ..state_space import scan

SHARPNESS = 8.0  # c
LEAST_STEP = 1e-6  # bounds the slope of sqrt(1 - a²) at a = 1


@register
@dataclass(frozen=True, kw_only=True)
class RGLRUConfig(LayerConfig):
    """Griffin's recurrent block."""

    name = "rglru"
    role = "mixer"

    expand: float = 1.0
    """Width of the recurrence over d_model."""
    n_heads: int | None = None
    """Blocks of the gates' matrices; left out: by ``head_dim``."""
    head_dim: int | None = None
    """Width of a block; left out: the divisor of the recurrence's width nearest to 64."""
    d_conv: int = 4
    """Tokens that the convolution sees."""

    def __post_init__(self) -> None:
        self.require(self.expand > 0, "expand", "above 0")
        self.require(self.d_conv >= 1, "d_conv", "at least 1")

    def sizes(self, d_model: int) -> tuple[int, int, int]:
        """(width of the recurrence, blocks, width of a block)."""
        E = max(1, round(self.expand * d_model))
        return E, *split_heads(self.name, E, self.n_heads, self.head_dim)

    def weights(self, d_model: int) -> int:
        """Entries of the matrices: both inputs and the output, both gates' blocks."""
        E, H, P = self.sizes(d_model)
        return 3 * d_model * E + 2 * H * P * P

    def build(self, d_model: int) -> "RGLRU":
        return RGLRU(self, d_model)

    def num_parameters(self, d_model: int) -> int:
        E, _, _ = self.sizes(d_model)
        vectors = 2 * E + d_model + 2 * E + E  # the projections' biases, the gates', Λ
        return self.weights(d_model) + convolution_parameters(E, self.d_conv, True) + vectors

    def flops_per_token(self, d_model: int, sequence_length: int) -> float:
        E, _, _ = self.sizes(d_model)
        return 2 * self.weights(d_model) + 2 * E * self.d_conv + 4 * E

    def state_bytes(self, d_model: int, sequence_length: int, dtype: torch.dtype = torch.bfloat16) -> int:
        E, _, _ = self.sizes(d_model)
        return E * torch.float32.itemsize + tail_bytes(E, self.d_conv, dtype) + POSITION_BYTES


class RGLRU(Layer):
    """Built from an RGLRUConfig."""

    def __init__(self, config: RGLRUConfig, d_model: int) -> None:
        super().__init__()
        self.E, H, P = config.sizes(d_model)
        self.in_proj = nn.Linear(d_model, 2 * self.E)
        self.conv = ShortConvolution(self.E, config.d_conv, bias=True, activation=None)
        self.gate_weight = nn.Parameter(torch.randn(2, H, P, P) * P**-0.5)
        self.gate_bias = nn.Parameter(torch.zeros(2, self.E))
        a = torch.empty(self.E).uniform_(0.9, 0.999)  # of a at r = 1, the paper's
        self.decay = nn.Parameter(torch.log(torch.expm1(-a.log() / SHARPNESS)))
        self.out_proj = nn.Linear(self.E, d_model)

    def init_state(
        self, batch_size: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> State:
        return {
            "recurrent": torch.zeros(batch_size, self.E, 1, device=device, dtype=torch.float32),
            "conv": self.conv.init_tail(batch_size, device=device, dtype=dtype),
            "position": torch.zeros(batch_size, device=device, dtype=torch.int64),
        }

    def forward(self, x_BTD: Tensor, state: State | None = None) -> tuple[Tensor, State | None]:
        y_BTE, x_BTE = self.in_proj(x_BTD).chunk(2, dim=-1)
        h_BTE = self._recur(self.conv(x_BTE, state), state)
        return self.out_proj(h_BTE * F.gelu(y_BTE, approximate="tanh")), state

    def _recur(self, x_BTE: Tensor, state: State | None) -> Tensor:
        """h [B,T,E]. As a selective scan: the step -log a, one state a channel, whose input the step would scale."""
        input_gate, decay_gate = self._gates(x_BTE)
        step_BTE = (SHARPNESS * F.softplus(self.decay.float()) * decay_gate).clamp(min=LEAST_STEP)
        scale_BTE = torch.where(self._first(x_BTE, state), 1.0, (-torch.expm1(-2 * step_BTE)).sqrt())
        one = step_BTE.new_ones(*step_BTE.shape[:2], 1)
        h_BTE = scan(
            x_BTE.float() * input_gate * scale_BTE / step_BTE,
            step_BTE,
            step_BTE.new_full((self.E, 1), -1.0),
            one,
            one,
            state=state,
        )
        return h_BTE.to(x_BTE.dtype)

    def _gates(self, x_BTE: Tensor) -> tuple[Tensor, Tensor]:
        """(input gate, decay gate), each [B,T,E]."""
        H, P = self.gate_weight.shape[1:3]
        blocks = torch.einsum("bthp,ghpq->gbthq", x_BTE.unflatten(-1, (H, P)), self.gate_weight).flatten(3)
        gates = (blocks + self.gate_bias[:, None, None]).float().sigmoid()
        return gates[0], gates[1]

    @staticmethod
    def _first(x_BTE: Tensor, state: State | None) -> Tensor:
        """[B or 1,T,1] bool: whether nothing came before."""
        B, T, _ = x_BTE.shape
        start_B = None if state is None else state["position"]
        if state is not None:
            state["position"] = state["position"] + T
        return positions(B, T, start_B, x_BTE.device)[..., None] == 0
