"""Hyena-SE, "short explicit" (Ku et al. 2025, StripedHyena 2): gates around a convolution over 7 tokens.

State: the tails of both convolutions.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from ..explicit_convolution import ExplicitConvolution, explicit_parameters
from ..gated_convolution import GatedConvolutionConfig
from ..layer import register
from ..parts import tail_bytes


@register
@dataclass(frozen=True, kw_only=True)
class ShortExplicitConfig(GatedConvolutionConfig):
    """Hyena-SE."""

    name = "hyena_se"
    regularized: ClassVar[bool] = False

    bias: bool = False
    """Biases of the projections and of the short convolution."""
    filter_length: int = 7
    """Tokens that a filter sees."""
    channels_per_filter: int = 16
    """Channels in a row that share a filter."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.filter_length >= 1, "filter_length", "at least 1")
        self.require(self.channels_per_filter >= 1, "channels_per_filter", "at least 1")

    def convolution(self, channels: int) -> ExplicitConvolution:
        return ExplicitConvolution(
            channels,
            self.filter_length,
            regularized=self.regularized,
            channels_per_filter=self.channels_per_filter,
        )

    def convolution_parameters(self, channels: int) -> int:
        return explicit_parameters(channels, self.filter_length, self.regularized, self.channels_per_filter)

    def convolution_flops(self, channels: int, sequence_length: int) -> float:
        return 2 * channels * self.filter_length

    def convolution_bytes(self, channels: int, sequence_length: int, dtype: torch.dtype) -> int:
        return tail_bytes(channels, self.filter_length, dtype)
