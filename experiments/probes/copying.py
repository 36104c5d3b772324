"""Copying: a string of random letters, a separator, then the string again.

Jelassi et al., "Repeat After Me: Transformers are better than state space models at copying", ICML 2024, section 3
(https://arxiv.org/abs/2402.01032). One example of length 4, `$` begins, `|` separates, `.` ends, `*` pads:

    tokens    $   c   a   z   a   |   c   a   z   a   *   *
    targets   -   -   -   -   -   c   a   z   a   .   -   -

Where we part from the released code: a row is one string (it packs several into a training context of 220), and
lengths outside training are asked for with `heldout_lengths`.

Shapes: N rows, L letters of the longest string, T positions.
"""

from dataclasses import dataclass

import numpy as np
import torch

from ..task import Batch, Split, register
from ..tokenizers import round_up
from .probe import Probe, ProbeConfig, blank_rows
from .sampling import BLOCK, draw


@register
@dataclass(frozen=True, kw_only=True)
class CopyingConfig(ProbeConfig):
    """`kind: copying`. The paper trains on lengths up to 20 or more of 26 letters and tests on longer ones too."""

    kind = "copying"

    letters: int = 26
    """Different letters."""

    min_length: int = 5
    """Letters of the shortest training string."""

    max_length: int = 20
    """Letters of the longest; a row has 2 * max_length + 2 positions."""

    heldout_lengths: tuple[int, ...] = ()
    """Lengths in validation and test, accuracy is reported for each; empty: drawn as in training."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.letters >= 2, "letters", "2 or more")
        self.require(1 <= self.min_length <= self.max_length, "min_length", f"from 1 to max_length={self.max_length}")
        self.require(all(n >= 1 for n in self.heldout_lengths), "heldout_lengths", "1 or more each")

    def build(self) -> "Copying":
        return Copying(self)


class Copying(Probe):
    """Accuracy is that of the copied letters and the end; `exact_match` of whole strings."""

    stream = 2
    slice_name = "length"

    def __init__(self, config: CopyingConfig) -> None:
        super().__init__(config)
        self.config = config
        self.begin, self.separator, self.end, self.pad = range(config.letters, config.letters + 4)
        self.vocab_size = round_up(config.letters + 4, 8)
        self.sequence_length = 2 * config.max_length + 2

    def make_block(self, generator: np.random.Generator, split: Split) -> Batch:
        listed = () if split == "train" else self.config.heldout_lengths
        length_N = np.resize(np.array(listed, dtype=np.int64), BLOCK)
        longest = max(listed, default=self.config.max_length)

        def strings(rows: np.ndarray) -> np.ndarray:
            """Letters, then -1: where a string ends is part of what tells it from others."""
            letters_NL = generator.integers(0, self.config.letters, size=(len(rows), longest))
            if not listed:
                length_N[rows] = generator.integers(self.config.min_length, self.config.max_length + 1, size=len(rows))
            return np.where(np.arange(longest) < length_N[rows, None], letters_NL, -1)

        letters_NL = draw(strings, BLOCK, split, where=f"task copying of {self.config.letters} letters")
        tokens_NT, targets_NT = self._rows(letters_NL, length_N)
        slices_N = torch.from_numpy(length_N) if listed else None
        return Batch(torch.from_numpy(tokens_NT), torch.from_numpy(targets_NT), slices_N)

    def _rows(self, letters_NL: np.ndarray, length_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        n_rows, longest = letters_NL.shape
        tokens_NT, targets_NT = blank_rows(n_rows, 2 * longest + 2, self.pad)
        row_N = np.arange(n_rows)
        row_M, letter_M = np.nonzero(letters_NL >= 0)  # M: all letters of all rows
        value_M, shift_M = letters_NL[row_M, letter_M], length_N[row_M] + 1
        tokens_NT[:, 0] = self.begin
        tokens_NT[row_M, 1 + letter_M] = value_M
        tokens_NT[row_N, 1 + length_N] = self.separator
        tokens_NT[row_M, 1 + letter_M + shift_M] = value_M
        targets_NT[row_M, letter_M + shift_M] = value_M
        targets_NT[row_N, 2 * length_N + 1] = self.end
        return tokens_NT, targets_NT
