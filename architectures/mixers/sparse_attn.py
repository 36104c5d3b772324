"""Sparse attention to the best chunks (RWKV-X, Hou et al. 2025; MoBA, Lu et al. 2025): ``attn`` whose queries see their
own chunk and the few earlier ones that they fit best, so that the work per token is bounded.

State: as ``attn``'s, keys and values of every token so far, and the position [B]; any chunk may be chosen again.
"""

from dataclasses import dataclass

from torch import Tensor

from ..chunk_attention import attend_chunks, mean_seen
from ..layer import register
from .attn import Attention, AttentionConfig


@register
@dataclass(frozen=True, kw_only=True)
class SparseAttentionConfig(AttentionConfig):
    """Attention to chunks; its other options are those of ``attn``."""

    name = "sparse_attn"

    chunk: int = 64
    """Tokens in a chunk (RWKV-X: 2048)."""
    top_k: int = 4
    """Chunks that a query sees, its own included."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.chunk >= 1, "chunk", "at least 1")
        self.require(self.top_k >= 1, "top_k", "at least 1")
        self.require(self.keys_values != "read", "keys_values", "own or share")

    def build(self, d_model: int) -> "SparseAttention":
        return SparseAttention(self, d_model)

    def flops_per_token(self, d_model: int, sequence_length: int) -> float:
        H, _, K = self.heads(d_model)
        candidates, keys = mean_seen(sequence_length, self.chunk, self.top_k)
        return 2 * d_model * (self.projected(d_model) + H * K) + 2 * H * K * candidates + 4 * H * K * keys


class SparseAttention(Attention):
    """Built from a SparseAttentionConfig."""

    def __init__(self, config: SparseAttentionConfig, d_model: int) -> None:
        super().__init__(config, d_model)
        self.chunk, self.top_k = config.chunk, config.top_k

    def read(
        self, q_BTHK: Tensor, k_BSGK: Tensor, v_BSGK: Tensor, position_BT: Tensor, visible_BS: Tensor | None
    ) -> Tensor:
        # Without a window, the slot of a cache is the position of its token: what lies beyond is not seen.
        return attend_chunks(q_BTHK, k_BSGK, v_BSGK, position_BT, chunk=self.chunk, top_k=self.top_k, scale=self.scale)
