"""What a source of text hands out, and which split a document belongs to."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from ..task import SPLITS, Split

HELD_OUT_FRACTION = 0.05
"""Of the documents, for validation and again for test, where nothing else is said."""


@dataclass(frozen=True)
class Document:
    """One text."""

    key: str
    """Its name wherever the corpus lies: a path inside the corpus, or a digest of the text. Decides the split."""

    text: str

    allowed: tuple[Split, ...] = SPLITS
    """The splits it may go to: one where its data set says so, else train and those the data set lacks."""


class Source(Protocol):
    """Where documents come from."""

    @property
    def name(self) -> str:
        """What an error line calls it."""
        ...

    def fingerprint(self) -> Any:
        """JSON-plain; changes whenever the documents may have changed. Cheap: the texts are not read for it."""
        ...

    def documents(self) -> Iterator[Document]:
        """Every document once, in a stable order. `InvalidInput` for what cannot be read."""
        ...


def digest(text: str) -> str:
    """A key for a document that has no path: equal texts get equal keys, and so the same split."""
    return hashlib.sha256(text.encode("utf-8", errors="surrogatepass")).hexdigest()


def assigned_split(document: Document, validation_fraction: float, test_fraction: float) -> Split:
    """The split of a document, by a hash of its key: neither the order nor other documents change it."""
    if len(document.allowed) == 1:
        return document.allowed[0]
    position = int.from_bytes(hashlib.sha256(document.key.encode()).digest()[:8], "big") / 2**64
    fractions: dict[Split, float] = {"test": test_fraction, "validation": validation_fraction}
    for split, fraction in fractions.items():
        if split in document.allowed:
            if position < fraction:
                return split
            position -= fraction
    return "train"
