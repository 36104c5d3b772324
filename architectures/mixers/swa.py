"""Sliding-window attention: softmax attention over the last ``window`` tokens (Beltagy et al. 2020; Mistral 7B).

State: keys and values of the last window-1 tokens at most, and the position [B].
"""

from dataclasses import dataclass

from ..layer import register
from .attn import AttentionConfig


@register
@dataclass(frozen=True, kw_only=True)
class SlidingWindowConfig(AttentionConfig):
    """Attention in a window; its other options are those of ``attn``."""

    name = "swa"

    window: int = 128  # pyright: ignore[reportIncompatibleVariableOverride]
    """Tokens in reach, the token itself included."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.window >= 1, "window", "at least 1")
