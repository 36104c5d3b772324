"""The Hyena operator (Poli et al. 2023, "Hyena Hierarchy"): gates and implicit long convolutions in turn.

``hyena_li``, ``hyena_mr`` and ``hyena_se`` are the Hyenas of StripedHyena, whose filters need no growing cache.

State: the tail of the short convolution, and every input of each long convolution: [B,S,D] ([B,S,2D] with heads).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..gated_convolution import GatedConvolution, GatedConvolutionConfig
from ..heads import require_divides
from ..implicit_convolution import (
    HeadedImplicitConvolution,
    ImplicitConvolution,
    ImplicitFilter,
    implicit_parameters,
    transform_flops,
)
from ..layer import State, register


@register
@dataclass(frozen=True, kw_only=True)
class HyenaConfig(GatedConvolutionConfig):
    """Hyena with filters from an MLP over positions."""

    name = "hyena"

    order: int = 2  # pyright: ignore[reportIncompatibleVariableOverride]
    """Gates; there is one long convolution less."""
    head_width: int = 1
    """Channels of a head: from 2 on, a head has one filter, which convolves the outer products of its keys and values
    (multi-head Hyena, of order 2)."""
    max_length: int = 1024
    """Positions are counted in units of this: the features' longest wavelength and the window's length."""
    filter_hidden: int = 64
    """Width of the MLP that makes the filters."""
    filter_features: int = 33
    """Features of a position: itself, and cosines and sines; odd, from 3."""
    filter_frequency: float = 1.0
    """Initial frequency of the sine activations. The paper's runs on the Pile have 14, which learned to copy eight
    tokens at a learning rate of 1e-3 but not at 3e-3; 1 did at both."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.order >= 2, "order", "at least 2")
        self.require(self.head_width >= 1, "head_width", "at least 1")
        self.require(self.head_width == 1 or self.order == 2, "order", "2 where heads are wider than 1")
        self.require(self.max_length >= 1, "max_length", "at least 1")
        self.require(self.filter_hidden >= 1, "filter_hidden", "at least 1")
        self.require(self.filter_features >= 3 and self.filter_features % 2 == 1, "filter_features", "odd, from 3")

    def filters(self, channels: int) -> int:
        """How many filters there are."""
        require_divides(self.name, "head_width", self.head_width, "d_model", channels)
        return channels // self.head_width

    def convolution(self, channels: int) -> ImplicitConvolution:
        filters = ImplicitFilter(
            self.filters(channels),
            features=self.filter_features,
            hidden=self.filter_hidden,
            frequency=self.filter_frequency,
            max_length=self.max_length,
        )
        return ImplicitConvolution(filters) if self.head_width == 1 else HeadedImplicitConvolution(filters, channels)

    def convolution_parameters(self, channels: int) -> int:
        return implicit_parameters(self.filters(channels), self.filter_features, self.filter_hidden)

    def convolution_flops(self, channels: int, sequence_length: int) -> float:
        if self.head_width == 1:
            return transform_flops(channels, sequence_length)
        products = channels * self.head_width
        return transform_flops(products, sequence_length) + 4 * products

    def convolution_bytes(self, channels: int, sequence_length: int, dtype: torch.dtype) -> int:
        self.filters(channels)
        return sequence_length * channels * dtype.itemsize * (1 if self.head_width == 1 else 2)

    def build(self, d_model: int) -> GatedConvolution:
        return (GatedConvolution if self.head_width == 1 else HeadedHyena)(self, d_model)


class HeadedHyena(GatedConvolution):
    """Multi-head Hyena: the gates are the heads' queries and keys."""

    def forward(self, x_BTD: Tensor, state: State | None = None) -> tuple[Tensor, State | None]:
        q_BTD, k_BTD, v_BTD = self.projected(x_BTD, state)
        convolution = self.long[0]
        assert isinstance(convolution, HeadedImplicitConvolution)
        return self.out_proj(convolution.heads(q_BTD, k_BTD, v_BTD, state, "long0")), state
