"""Language modelling: predict each token of a text from those before it.

Training windows start anywhere in the training tokens. Held-out windows lie end to end, so that every token of a
split but the first, which is an end token, is predicted exactly once:

    tokens    <end>  i  m  p  |  o  r  t  <end>  |  x  …
    targets     i    m  p  o  |  r  t  <end>  x  |  …

They come in an order that jumps across the split, so that the first few batches are a fair sample of all of it.

Shapes: B windows, T positions.
"""

import math
from dataclasses import dataclass, field

import numpy as np
import torch

from ..architectures import InvalidInput
from .corpora import Corpus, CorpusConfig
from .task import UNLABELLED, Batch, Score, Split, Task, TaskConfig, register
from .tokenizers import load_tokenizer


@register
@dataclass(frozen=True, kw_only=True)
class LanguageModellingConfig(TaskConfig):
    """`kind: language_modelling`."""

    kind = "language_modelling"

    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    """The text: `stdlib`, a path, a data set's name, or a mapping with the options of `CorpusConfig`."""

    tokenizer: str = "bytes"
    """`bytes`, a local tokenizer.json or its folder, or a name on the Hugging Face hub."""

    end_token: str | None = None
    """The token between documents, where the tokenizer does not say."""

    sequence_length: int = 256
    """Tokens of a window."""

    def __post_init__(self) -> None:
        if self.sequence_length < 1:
            raise InvalidInput(f"task {self.kind}: sequence_length={self.sequence_length} should be at least 1")

    def build(self) -> "LanguageModelling":
        return LanguageModelling(
            self.corpus.build(load_tokenizer(self.tokenizer, self.end_token)), self.sequence_length
        )


class LanguageModelling(Task):
    """Reports loss in nats per token, perplexity per token, and bits per byte of text."""

    name = LanguageModellingConfig.kind

    def __init__(self, corpus: Corpus, sequence_length: int) -> None:
        self.corpus = corpus
        self.tokenizer = corpus.tokenizer
        self.vocab_size = corpus.tokenizer.vocab_size
        self.sequence_length = sequence_length
        n_tokens = corpus.size("train").n_tokens
        if n_tokens <= sequence_length:
            named = f"corpus {corpus.config.source!r}"
            raise InvalidInput(f"{named}: {n_tokens} training tokens are too few for sequence_length={sequence_length}")

    def batch(self, split: Split, index: int, batch_size: int, seed: int = 0) -> Batch:
        if split == "train":
            return self._random_windows(index, batch_size, seed)
        return self._held_out_windows(split, index, batch_size)

    def _random_windows(self, index: int, batch_size: int, seed: int) -> Batch:
        tokens = self.corpus.tokens("train")
        starts_B = np.random.default_rng([seed, index]).integers(0, len(tokens) - self.sequence_length, size=batch_size)
        windows_BT = torch.from_numpy(tokens[starts_B[:, None] + np.arange(self.sequence_length + 1)].astype(np.int64))
        return Batch(windows_BT[:, :-1].contiguous(), windows_BT[:, 1:].contiguous())

    def _held_out_windows(self, split: Split, index: int, batch_size: int) -> Batch:
        tokens, n_windows = self.corpus.tokens(split), self._num_windows(split)
        numbers_B = np.arange(index * batch_size, min((index + 1) * batch_size, n_windows))
        if not len(numbers_B):
            raise IndexError(
                f"{self.name}: the {split} split has {n_windows} windows, no batch {index} of {batch_size}"
            )
        starts_B = numbers_B * _stride(n_windows) % n_windows * self.sequence_length
        places_BT = starts_B[:, None] + np.arange(self.sequence_length + 1)
        windows_BT = tokens[np.minimum(places_BT, len(tokens) - 1)].astype(np.int64)
        windows_BT[places_BT >= len(tokens)] = UNLABELLED  # the split ends within its last window
        inputs_BT = np.where(windows_BT == UNLABELLED, self.corpus.tokenizer.eos_id, windows_BT)[:, :-1]
        return Batch(torch.from_numpy(inputs_BT.copy()), torch.from_numpy(windows_BT[:, 1:].copy()))

    def _num_windows(self, split: Split) -> int:
        return -(-(self.corpus.size(split).n_tokens - 1) // self.sequence_length)

    def num_batches(self, split: Split, batch_size: int) -> int | None:
        return None if split == "train" else -(-self._num_windows(split) // batch_size)

    def metrics(self, score: Score, split: Split) -> dict[str, float]:
        """`loss` (nats per token), `perplexity` (e to that), and `bits_per_byte`.

        Bits per byte are exact once the whole split was scored: all its tokens, end tokens included, over the bytes of
        its texts. For a part of it, the split's tokens per byte stand for the part's.
        """
        if not score.n_targets:
            return {}
        size = self.corpus.size(split)
        tokens_per_byte = (size.n_tokens - 1) / size.n_bytes
        perplexity = math.exp(score.loss) if score.loss < 700 else math.inf  # e^710 is beyond a float
        return {
            "loss": score.loss,
            "perplexity": perplexity,
            "bits_per_byte": score.loss / math.log(2) * tokens_per_byte,
        }


def _stride(n_windows: int) -> int:
    """A step that visits every window once and, by the golden ratio, spreads any first few evenly."""
    stride = max(1, round(n_windows * 0.618))
    while math.gcd(stride, n_windows) != 1:
        stride += 1
    return stride
