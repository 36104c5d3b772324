"""Convolutions over time, one filter per channel.

The short causal convolution that stands before a recurrence; its state is the last W-1 inputs:

    y_t = activation(bias + Σ_{w<W} weight[:, w] ∘ x_{t-W+1+w})

The long causal convolution of S4, H3 and Hyena, whose filters are as long as the sequence:

    y_t = Σ_{s≤t} filters[:, t − s] ∘ x_s + skip ∘ x_t

Legend: B batch, T time, D channels, W width, N packed sequences.
"""

from __future__ import annotations

from .long import long_convolution
from .reference import long_convolution_reference, short_convolution_reference
from .short import short_convolution
from .step import short_convolution_step

__all__ = [
    "long_convolution",
    "long_convolution_reference",
    "short_convolution",
    "short_convolution_reference",
    "short_convolution_step",
]
