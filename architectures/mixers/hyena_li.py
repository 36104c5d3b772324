"""Hyena with filters of poles and residues. It sees the whole past and decodes from a state of constant size.

It is the "long implicit" one of StripedHyena 2 (Ku et al. 2025, "Systems and Algorithms for Convolutional Multi-Hybrid
Language Models at Scale"; Evo 2: 16 real poles), and the only one of StripedHyena (Poli et al. 2023; the 7B:
``poles=complex, d_state=2, bias=true``).

State: the tail of the short convolution, and the modes [B,D,N].
"""

from dataclasses import dataclass

import torch

from ..gated_convolution import GatedConvolutionConfig
from ..layer import register
from ..modal_convolution import ModalConvolution, Poles, modal_bytes, modal_flops, modal_parameters


@register
@dataclass(frozen=True, kw_only=True)
class LongImplicitConfig(GatedConvolutionConfig):
    """Hyena-LI."""

    name = "hyena_li"

    bias: bool = False
    """Biases of the projections and of the short convolution (StripedHyena-7B)."""
    d_state: int = 16
    """N: poles of a filter."""
    poles: Poles = "real"
    """real (decays), or complex (decaying waves)."""
    channels_per_filter: int = 1
    """Channels in a row that share poles and residues."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.d_state >= 1, "d_state", "at least 1")
        self.require(self.channels_per_filter >= 1, "channels_per_filter", "at least 1")

    def convolution(self, channels: int) -> ModalConvolution:
        return ModalConvolution(channels, self.d_state, poles=self.poles, channels_per_filter=self.channels_per_filter)

    def convolution_parameters(self, channels: int) -> int:
        return modal_parameters(channels, self.d_state, self.poles, self.channels_per_filter)

    def convolution_flops(self, channels: int, sequence_length: int) -> float:
        return modal_flops(channels, self.d_state, self.poles)

    def convolution_bytes(self, channels: int, sequence_length: int, dtype: torch.dtype) -> int:
        return modal_bytes(channels, self.d_state, self.poles)
