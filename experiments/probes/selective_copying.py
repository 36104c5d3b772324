"""Selective copying: a few tokens scattered in noise, to be repeated in their order at the end.

Gu and Dao, "Mamba: Linear-time sequence modeling with selective state spaces", 2023, section 4.1.1
(https://arxiv.org/abs/2312.00752), whose task is S4's copying with `variable: true`: the distances between the tokens
differ, so a model must choose by content. One example with `n_memorize=3, sequence_length=12`, `*` noise, `|` asks:

    tokens    *   b   *   *   a   *   *   c   *   |   |   |
    targets   -   -   -   -   -   -   -   -   -   b   a   c

Shapes: N rows, M tokens to memorize, C positions of the context before the first `|`.
"""

from dataclasses import dataclass

import numpy as np
import torch

from ..task import Batch, Split, register
from ..tokenizers import round_up
from .probe import Probe, ProbeConfig, blank_rows
from .sampling import BLOCK, distinct, draw


@register
@dataclass(frozen=True, kw_only=True)
class SelectiveCopyingConfig(ProbeConfig):
    """`kind: selective_copying`. Mamba's table 1: sequence_length 4096, 16 tokens to memorize of 16 different ones."""

    kind = "selective_copying"

    n_tokens: int = 16
    """Different tokens."""

    n_memorize: int = 16
    """Tokens of an example that are to be repeated."""

    sequence_length: int = 256
    """Positions: the context, then `n_memorize` that ask."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.n_tokens >= 2, "n_tokens", "2 or more")
        most = self.sequence_length // 2
        self.require(1 <= self.n_memorize <= most, "n_memorize", f"from 1 to {most} (half of sequence_length)")

    def build(self) -> "SelectiveCopying":
        return SelectiveCopying(self)


class SelectiveCopying(Probe):
    """Accuracy is that of the repeated tokens; `exact_match` of whole examples."""

    stream = 3

    def __init__(self, config: SelectiveCopyingConfig) -> None:
        super().__init__(config)
        self.config = config
        self.noise, self.ask = config.n_tokens, config.n_tokens + 1
        self.vocab_size = round_up(config.n_tokens + 2, 8)
        self.sequence_length = config.sequence_length

    def make_block(self, generator: np.random.Generator, split: Split) -> Batch:
        n_memorize, context = self.config.n_memorize, self.sequence_length - self.config.n_memorize

        def strings(rows: np.ndarray) -> np.ndarray:
            return generator.integers(0, self.config.n_tokens, size=(len(rows), n_memorize))

        string_NM = draw(strings, BLOCK, split, where=f"task selective_copying of {n_memorize} tokens")
        place_NM = np.sort(distinct(generator, 0, context, BLOCK, n_memorize), axis=1)
        tokens_NT, targets_NT = blank_rows(BLOCK, self.sequence_length, self.noise)
        np.put_along_axis(tokens_NT, place_NM, string_NM, axis=1)
        tokens_NT[:, context:] = self.ask
        targets_NT[:, context:] = string_NM
        return Batch(torch.from_numpy(tokens_NT), torch.from_numpy(targets_NT))
