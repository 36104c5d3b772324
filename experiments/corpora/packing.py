"""A corpus as tokens on disk: written once, mapped into memory ever after.

One folder per corpus and tokenizer, named by a hash of both. It is written under another name and renamed when
complete, so a folder of the right name is whole: a writer that dies leaves nothing that would be read, and of two
writers at once the second finds the first one's and drops its own.

    <split>.bin   uint16 or uint32 tokens: end, document, end, document, …, end
    corpus.json   for each split its tokens, documents and the bytes of its texts
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from ...architectures import InvalidInput
from ..task import SPLITS, Split
from ..tokenizers import Tokenizer
from .document import Document, Source, assigned_split

VERSION = 1
"""Goes up when the same source and tokenizer would be packed to something else."""

FEW_DOCUMENTS = 10
"""Fewer than these are not told apart by a hash: each is cut into a training, a validation and a test part."""

PIECE = 2**20
"""Characters that are encoded at once. Tokens that would reach over a line end are split there."""


@dataclass(frozen=True)
class SplitSize:
    """What a split holds."""

    n_tokens: int
    """End tokens included."""
    n_documents: int
    n_bytes: int
    """UTF-8 bytes of the texts; end tokens stand for none."""


@dataclass(frozen=True)
class Packed:
    """A packed corpus on disk."""

    folder: Path
    dtype: str
    sizes: dict[Split, SplitSize]

    def tokens(self, split: Split) -> np.ndarray:
        """The split's tokens, mapped read-only."""
        return np.memmap(self.folder / f"{split}.bin", dtype=self.dtype, mode="r")


def cache_folder() -> Path:
    """$HYBRIDLAB_CACHE, else hybridlab/ in $XDG_CACHE_HOME or ~/.cache."""
    if named := os.environ.get("HYBRIDLAB_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hybridlab"


def pack(source: Source, tokenizer: Tokenizer, validation_fraction: float, test_fraction: float) -> Packed:
    """The packed form of a source, from the cache, or written there first. `InvalidInput` if a split is empty."""
    key = _key([VERSION, source.fingerprint(), tokenizer.fingerprint, validation_fraction, test_fraction])
    folder = cache_folder() / "corpora" / key
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=f".{key}-", dir=folder.parent))
        try:
            documents = _split(source.documents(), validation_fraction, test_fraction)
            _write(unfinished, documents, tokenizer, source.name)
            _rename(unfinished, folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return _open(folder)


def _key(parts: list[Any]) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:20]


def _rename(unfinished: Path, folder: Path) -> None:
    try:
        unfinished.rename(folder)
    except OSError:
        if not folder.exists():  # else another writer was first, with the same content
            raise


def _open(folder: Path) -> Packed:
    data = json.loads((folder / "corpus.json").read_text())
    return Packed(folder, data["dtype"], {split: SplitSize(**data["sizes"][split]) for split in SPLITS})


def _split(
    documents: Iterator[Document], validation_fraction: float, test_fraction: float
) -> Iterator[tuple[Split, str]]:
    """Each text with its split. Few documents are cut; many, or those with splits of their own, are assigned."""
    first = list(islice(documents, FEW_DOCUMENTS))
    if len(first) < FEW_DOCUMENTS and all(document.allowed == SPLITS for document in first):
        for document in first:
            yield from _cut(document.text, validation_fraction, test_fraction)
        return
    for document in chain(first, documents):
        yield assigned_split(document, validation_fraction, test_fraction), document.text


def _cut(text: str, validation_fraction: float, test_fraction: float) -> Iterator[tuple[Split, str]]:
    """The beginning for training, then validation, then test."""
    shares = [0.0, 1 - validation_fraction - test_fraction, 1 - test_fraction]
    places = [behind_a_line(text, int(share * len(text))) if share else 0 for share in shares]
    for split, start, stop in zip(SPLITS, places, [*places[1:], len(text)], strict=True):
        if text[start:stop].strip():
            yield split, text[start:stop]


def behind_a_line(text: str, place: int) -> int:
    """The first line end after `place`, or the first blank, if there is one near; else `place`."""
    near = place + max(64, len(text) // 100)
    found = (text.find(mark, place, near) + 1 for mark in ("\n", " "))
    return next((end for end in found if end), place)


def _pieces(text: str) -> Iterator[str]:
    """The text in pieces that are encoded one by one: a list of the tokens of a whole corpus would not fit."""
    start = 0
    while start < len(text):
        stop = len(text) if len(text) - start <= PIECE else behind_a_line(text, start + PIECE)
        yield text[start:stop]
        start = stop


def _write(folder: Path, documents: Iterable[tuple[Split, str]], tokenizer: Tokenizer, name: str) -> None:
    dtype = "uint16" if tokenizer.vocab_size <= 2**16 else "uint32"
    end = np.array([tokenizer.eos_id], dtype=dtype)
    sizes = {split: SplitSize(0, 0, 0) for split in SPLITS}
    files = {split: (folder / f"{split}.bin").open("wb") for split in SPLITS}
    try:
        for split, text in documents:
            tokens = np.concatenate([end, np.array(tokenizer.encode(text), dtype=dtype)])
            tokens.tofile(files[split])
            size, n_bytes = sizes[split], len(text.encode("utf-8", errors="surrogatepass"))
            sizes[split] = SplitSize(size.n_tokens + len(tokens), size.n_documents + 1, size.n_bytes + n_bytes)
        for split, file in files.items():
            end.tofile(file)
            sizes[split] = SplitSize(sizes[split].n_tokens + 1, sizes[split].n_documents, sizes[split].n_bytes)
    finally:
        for file in files.values():
            file.close()
    for split, size in sizes.items():
        if not size.n_documents:
            found = sum(s.n_documents for s in sizes.values())
            raise InvalidInput(
                f"corpus {name!r}: none of its {found} documents is in the {split} split; enlarge its fraction"
            )
    described = {"dtype": dtype, "sizes": {split: asdict(size) for split, size in sizes.items()}}
    (folder / "corpus.json").write_text(json.dumps(described, indent=1))
