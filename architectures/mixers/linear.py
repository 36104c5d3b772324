"""Linear attention (Katharopoulos et al. 2020): φ(q) φ(k)ᵀ for softmax's exp(q kᵀ), so the past is one matrix.

    S_t = S_{t-1} + φ(k_t) v_tᵀ;   o_t = φ(q_t)ᵀ S_t, over φ(q_t)ᵀ z_t where normalised, z_t the sum of φ(k)

State: S [B,H,F,V] in fp32, F features per key (z is one more column where normalised), and the tail of a convolution
if there is one.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...kernels import rms_norm
from ..heads import split_heads
from ..layer import Layer, LayerConfig, State, register
from ..linear_recurrence import recur, recurrence_flops, zero_state, zero_state_bytes
from ..parts import ShortConvolution, convolution_parameters, tail_bytes

FeatureMap = Literal["elu1", "relu", "identity", "taylor"]
POSITIVE = ("elu1", "taylor")


@register
@dataclass(frozen=True, kw_only=True)
class LinearAttentionConfig(LayerConfig):
    """Linear attention without decay."""

    name = "linear"
    role = "mixer"

    n_heads: int | None = None
    """Heads; left out: by ``head_dim``."""
    head_dim: int | None = None
    """V: width of a head's values; left out: the divisor of d_model nearest to 64."""
    d_state: int | None = None
    """K: width of a head's queries and keys; left out: as wide as its values."""
    feature_map: FeatureMap = "elu1"
    """φ: elu1 is elu(x)+1 (the paper's); relu; identity; or taylor, whose 1+K+K² products give softmax's exponential to
    second order, 1 + s + s²/2 with s = q k / sqrt(K) (Based, Arora et al. 2024, equation 2)."""
    normalize: bool = True
    """Divide by the sum of weights, as softmax does (the paper's); else RMS-normalise each head's output, as
    TransNormer (Qin et al. 2022) found steadier. Needs weights above 0: elu1 or taylor."""
    conv: int = 0
    """Width of a short convolution with silu over queries, keys and values; 0: none."""

    def __post_init__(self) -> None:
        self.require(self.conv >= 0, "conv", "at least 0")
        self.require(self.d_state is None or self.d_state >= 1, "d_state", "at least 1")
        self.require(
            not self.normalize or self.feature_map in POSITIVE,
            "feature_map",
            "elu1 or taylor where normalize=True, as other maps may sum to 0",
        )

    def heads(self, d_model: int) -> tuple[int, int, int]:
        """(heads, key width, value width)."""
        H, V = split_heads(self.name, d_model, self.n_heads, self.head_dim)
        return H, self.d_state or V, V

    def state_shape(self, d_model: int) -> tuple[int, int, int]:
        """(heads, features of a key, columns) of the recurrent state."""
        H, K, V = self.heads(d_model)
        return H, 1 + K + K * K if self.feature_map == "taylor" else K, V + self.normalize

    def projected(self, d_model: int) -> int:
        """Channels of queries, keys and values together."""
        H, K, V = self.heads(d_model)
        return H * (2 * K + V)

    def build(self, d_model: int) -> "LinearAttention":
        return LinearAttention(self, d_model)

    def num_parameters(self, d_model: int) -> int:
        projected = self.projected(d_model)
        convolution = convolution_parameters(projected, self.conv, False) if self.conv else 0
        return d_model * (projected + d_model) + convolution

    def flops_per_token(self, d_model: int, sequence_length: int) -> float:
        projected = self.projected(d_model)
        projections = 2 * d_model * (projected + d_model) + 2 * projected * self.conv
        return projections + recurrence_flops(*self.state_shape(d_model))

    def state_bytes(self, d_model: int, sequence_length: int, dtype: torch.dtype = torch.bfloat16) -> int:
        tail = tail_bytes(self.projected(d_model), self.conv, dtype) if self.conv else 0
        return zero_state_bytes(*self.state_shape(d_model)) + tail


class LinearAttention(Layer):
    """Built from a LinearAttentionConfig."""

    def __init__(self, config: LinearAttentionConfig, d_model: int) -> None:
        super().__init__()
        self.H, self.K, self.V = config.heads(d_model)
        self.state_shape = config.state_shape(d_model)
        self.feature_map: FeatureMap = config.feature_map
        self.normalize = config.normalize
        self.qkv_proj = nn.Linear(d_model, config.projected(d_model), bias=False)
        self.conv = ShortConvolution(config.projected(d_model), config.conv, bias=False) if config.conv else None
        self.out_proj = nn.Linear(d_model, d_model, bias=False)

    def init_state(
        self, batch_size: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> State:
        state = {"recurrent": zero_state(batch_size, *self.state_shape, device)}
        if self.conv is not None:
            state["conv"] = self.conv.init_tail(batch_size, device=device, dtype=dtype)
        return state

    def forward(self, x_BTD: Tensor, state: State | None = None) -> tuple[Tensor, State | None]:
        qkv = self.qkv_proj(x_BTD)
        if self.conv is not None:
            qkv = self.conv(qkv, state)
        q, k, v = qkv.split([self.H * self.K, self.H * self.K, self.H * self.V], dim=-1)
        q_BTHK, k_BTHK = (features(m.unflatten(-1, (self.H, self.K)), self.feature_map) for m in (q, k))
        o_BTHV = recur(
            q_BTHK, k_BTHK, v.unflatten(-1, (self.H, self.V)), decay=None, state=state, normalize=self.normalize
        )
        if not self.normalize:
            o_BTHV = rms_norm(o_BTHV, None)
        return self.out_proj(o_BTHV.flatten(2)), state


def features(x: Tensor, feature_map: FeatureMap) -> Tensor:
    """φ(x), [B,T,H,F] of [B,T,H,K]."""
    if feature_map == "taylor":
        x = x * x.shape[-1] ** -0.25
        pairs = (x[..., :, None] * x[..., None, :]).flatten(-2) * 0.5**0.5
        return torch.cat([torch.ones_like(x[..., :1]), x, pairs], dim=-1)
    if feature_map == "elu1":
        return F.elu(x) + 1
    return F.relu(x) if feature_map == "relu" else x
