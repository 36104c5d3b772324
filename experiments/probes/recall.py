"""Multi-query associative recall: pairs of keys and values first, then some of the keys again.

Arora, Eyuboglu et al., "Zoology: Measuring and improving recall in efficient language models", ICLR 2024, section 3 and
appendix E (https://arxiv.org/abs/2312.04927); the layout is that of its released generator. One example, with
`vocab_size=12, n_pairs=2, sequence_length=16`:

             key  value key  value           query                         query
    tokens    2    8     4    7    0    0    4    0    0    0    0    0    2    0    0    0
    targets   .    .     .    .    .    .    7    .    .    .    .    .    8    .    .    .

Keys are different tokens of [1, V/2), values different tokens of [V/2, V), 0 fills. Each key is asked for once, at
a distance after the pairs whose law is the power i^(power_a - 1).

Shapes: N rows, P pairs, T positions, S places a query can stand.
"""

from dataclasses import dataclass

import numpy as np
import torch

from ..task import Batch, Split, register
from .probe import Probe, ProbeConfig, blank_rows
from .sampling import BLOCK, distinct, distinct_weighted, draw

FILLER = 0


@register
@dataclass(frozen=True, kw_only=True)
class RecallConfig(ProbeConfig):
    """`kind: recall`. Zoology's figure 2: vocab_size 8192, (sequence_length, n_pairs) (64, 4), (128, 8), (256, 16)."""

    kind = "recall"

    vocab_size: int = 8192
    """Tokens in all: the lower half keys (and the filler 0), the upper half values."""

    sequence_length: int = 64
    """Positions of an example; even."""

    n_pairs: tuple[int, ...] = (8,)
    """Pairs of an example in training. Several numbers: as many examples of each."""

    heldout_n_pairs: tuple[int, ...] = ()
    """Pairs in validation and test, accuracy is reported for each; empty: as in training."""

    power_a: float = 0.01
    """Exponent of the law of distances: near 0 the queries stand close behind the pairs, 1 is uniform."""

    random_filler: bool = False
    """Fill with random tokens of the whole vocabulary, keys and values included, instead of 0."""

    def __post_init__(self) -> None:
        super().__post_init__()
        even = self.sequence_length >= 4 and self.sequence_length % 2 == 0
        self.require(even, "sequence_length", "even and 4 or more")
        self.require(self.power_a > 0, "power_a", "above 0 (1 is uniform)")
        self.require(bool(self.n_pairs), "n_pairs", "one or more numbers")
        most = min(self.sequence_length // 4, self.vocab_size // 2 - 1)
        reason = f"from 1 to {most} (a pair takes 4 of {self.sequence_length} positions and a key of its own)"
        for name in ("n_pairs", "heldout_n_pairs"):
            self.require(all(1 <= n <= most for n in getattr(self, name)), name, reason)

    def build(self) -> "MultiQueryRecall":
        return MultiQueryRecall(self)


class MultiQueryRecall(Probe):
    """Accuracy is that of the value at each query, overall and by number of pairs (`accuracy/pairs_8`)."""

    stream = 1
    slice_name = "pairs"

    def __init__(self, config: RecallConfig) -> None:
        super().__init__(config)
        self.config = config
        self.vocab_size = config.vocab_size
        self.sequence_length = config.sequence_length

    def make_block(self, generator: np.random.Generator, split: Split) -> Batch:
        choices = self.config.n_pairs if split == "train" else (self.config.heldout_n_pairs or self.config.n_pairs)
        tokens_NT, targets_NT = blank_rows(BLOCK, self.sequence_length, FILLER)
        for first, n_pairs in enumerate(choices):
            rows = slice(first, BLOCK, len(choices))
            self._write(generator, split, n_pairs, tokens_NT[rows], targets_NT[rows])
        if self.config.random_filler:
            noise_NT = generator.integers(0, self.vocab_size, size=tokens_NT.shape)
            tokens_NT = np.where(tokens_NT == FILLER, noise_NT, tokens_NT)
        pairs_N = torch.tensor(choices).repeat(-(-BLOCK // len(choices)))[:BLOCK]
        return Batch(torch.from_numpy(tokens_NT), torch.from_numpy(targets_NT), pairs_N)

    def _write(
        self, generator: np.random.Generator, split: Split, n_pairs: int, tokens_NT: np.ndarray, targets_NT: np.ndarray
    ) -> None:
        """Write examples with this many pairs into blank rows."""
        n_rows, half = len(tokens_NT), self.vocab_size // 2

        def pairs(rows: np.ndarray) -> np.ndarray:
            keys_NP = distinct(generator, 1, half, len(rows), n_pairs)
            return np.concatenate([keys_NP, distinct(generator, half, self.vocab_size, len(rows), n_pairs)], axis=1)

        drawn = draw(pairs, n_rows, split, where=f"task recall with {n_pairs} pairs of {self.vocab_size} tokens")
        keys_NP, values_NP = drawn[:, :n_pairs], drawn[:, n_pairs:]
        tokens_NT[:, 0 : 2 * n_pairs : 2] = keys_NP
        tokens_NT[:, 1 : 2 * n_pairs : 2] = values_NP

        n_places = (self.sequence_length - 2 * n_pairs) // 2
        law_S = np.arange(1, n_places + 1, dtype=np.float64) ** (self.config.power_a - 1)
        queries_NP = 2 * n_pairs + 2 * distinct_weighted(generator, law_S, n_rows, n_pairs)
        np.put_along_axis(tokens_NT, queries_NP, keys_NP, axis=1)
        np.put_along_axis(targets_NT, queries_NP, values_NP, axis=1)
