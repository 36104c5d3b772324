"""Induction heads: what followed the special token the first time follows it again.

Dao, Fu et al., "Hungry hungry hippos: Towards language modeling with state space models", ICLR 2023, section 3.1
(https://arxiv.org/abs/2212.14052). One example with `sequence_length=9`, `|` the special token:

    tokens    c   a   d   |   b   a   e   c   |
    targets   -   -   -   -   -   -   -   -   b

Shapes: N rows, T positions.
"""

from dataclasses import dataclass

import numpy as np
import torch

from ..task import UNLABELLED, Batch, Split, register
from .probe import Probe, ProbeConfig
from .sampling import BLOCK, draw


@register
@dataclass(frozen=True, kw_only=True)
class InductionConfig(ProbeConfig):
    """`kind: induction`. Mamba's table 2 trains on vocab_size 16, sequence_length 256 and tests up to a million."""

    kind = "induction"

    vocab_size: int = 16
    """Tokens in all, the special one included."""

    sequence_length: int = 256
    """Positions in training."""

    heldout_sequence_length: int | None = None
    """Positions in validation and test; null: as in training."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.vocab_size >= 3, "vocab_size", "3 or more")
        for name in ("sequence_length", "heldout_sequence_length"):
            self.require(getattr(self, name) is None or getattr(self, name) >= 3, name, "3 or more")

    def build(self) -> "Induction":
        return Induction(self)


class Induction(Probe):
    """Accuracy is that of the one token asked for."""

    stream = 4

    def __init__(self, config: InductionConfig) -> None:
        super().__init__(config)
        self.config = config
        self.special = config.vocab_size - 1
        self.vocab_size = config.vocab_size
        self.sequence_length = config.sequence_length

    def make_block(self, generator: np.random.Generator, split: Split) -> Batch:
        heldout = self.config.heldout_sequence_length or self.sequence_length
        length = self.sequence_length if split == "train" else heldout

        def rows_of_tokens(rows: np.ndarray) -> np.ndarray:
            tokens_NT = generator.integers(0, self.special, size=(len(rows), length))
            tokens_NT[np.arange(len(rows)), generator.integers(0, length - 2, size=len(rows))] = self.special
            tokens_NT[:, -1] = self.special
            return tokens_NT

        tokens_NT = draw(rows_of_tokens, BLOCK, split, where=f"task induction of {length} positions")
        first_N = (tokens_NT == self.special).argmax(axis=1)
        targets_NT = np.full_like(tokens_NT, UNLABELLED)
        targets_NT[:, -1] = tokens_NT[np.arange(BLOCK), first_N + 1]
        return Batch(torch.from_numpy(tokens_NT), torch.from_numpy(targets_NT))
