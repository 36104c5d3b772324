"""Which text a model reads: the options, and the packed corpus they lead to."""

from dataclasses import dataclass

import numpy as np

from ...architectures import InvalidInput
from ..task import Split
from ..tokenizers import Tokenizer
from . import standard_library
from .document import HELD_OUT_FRACTION, Source
from .files import local_files, looks_local
from .hub import HubDataset
from .packing import SplitSize, pack


@dataclass(frozen=True, kw_only=True)
class CorpusConfig:
    """A string in YAML is short for its `source`."""

    source: str = "stdlib"
    """`stdlib` (the interpreter's standard library), a local file, folder or glob of text, .jsonl or .parquet files, or
    the name of a Hugging Face data set (`hub:NAME` where a local file has that name too)."""

    text_field: str = "text"
    """The column or field that holds the text, for JSON lines, Parquet and the hub."""

    separator: str | None = None
    """What stands between the documents of a text file; null: a file is one document."""

    subset: str | None = None
    """Hub only: the data set's configuration."""

    split: str | None = None
    """Hub only: read this split alone; null: all, with the data set's own held-out splits."""

    revision: str | None = None
    """Hub only: the commit or tag to pin."""

    validation_fraction: float | None = None
    """Documents held out for validation, where the source has no such split; null: 0.05. Fixed for `stdlib`."""

    test_fraction: float | None = None
    """The same for the test split."""

    def __post_init__(self) -> None:
        for name in ("validation_fraction", "test_fraction"):
            value = getattr(self, name)
            if value is not None and not 0 < value < 0.5:
                raise InvalidInput(f"corpus {self.source!r}: {name}={value!r} should be between 0 and 0.5")
            if value is not None and self.source == "stdlib":
                raise InvalidInput(f"corpus 'stdlib': {name}={value!r}: its split is fixed, leave it out")

    def open_source(self) -> Source:
        """Where the documents come from. `InvalidInput` if local files are missing; the hub is asked only when read."""
        if self.source == "stdlib":
            return standard_library.StandardLibrary()
        if self.source.startswith("hub:") or not looks_local(self.source):
            name = self.source.removeprefix("hub:")
            return HubDataset(name, self.subset, self.split, self.revision, self.text_field)
        return local_files(self.source, self.text_field, self.separator)

    def build(self, tokenizer: Tokenizer) -> "Corpus":
        """The corpus in tokens. Packs it the first time, which reads all of it."""
        return Corpus(self, tokenizer)


class Corpus:
    """Text in tokens: each split one long row with an end token before, between and after its documents."""

    def __init__(self, config: CorpusConfig, tokenizer: Tokenizer) -> None:
        self.config = config
        self.tokenizer = tokenizer
        self._packed = pack(
            config.open_source(),
            tokenizer,
            HELD_OUT_FRACTION if config.validation_fraction is None else config.validation_fraction,
            HELD_OUT_FRACTION if config.test_fraction is None else config.test_fraction,
        )

    def tokens(self, split: Split) -> np.ndarray:
        """uint16 or uint32, mapped from disk."""
        return self._packed.tokens(split)

    def size(self, split: Split) -> SplitSize:
        """Tokens, documents and bytes of a split."""
        return self._packed.sizes[split]
