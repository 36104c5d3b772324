"""Hyena-MR, "medium regularised" (Ku et al. 2025, StripedHyena 2): gates around a convolution over 128 tokens, whose
taps fade by fixed decays. The bill has its 128 products a token; training takes two transforms of 2T instead.

State: the tails of both convolutions.
"""

from dataclasses import dataclass
from typing import ClassVar

from ..layer import register
from .hyena_se import ShortExplicitConfig


@register
@dataclass(frozen=True, kw_only=True)
class MediumRegularizedConfig(ShortExplicitConfig):
    """Hyena-MR; its options are those of ``hyena_se``."""

    name = "hyena_mr"
    regularized: ClassVar[bool] = True

    filter_length: int = 128
    """Tokens that a filter sees."""
