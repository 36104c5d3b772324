"""A Hugging Face data set by name, through `datasets` and its own cache."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ...architectures import InvalidInput, nearest
from ..task import SPLITS, Split
from .document import Document, digest
from .files import field_of

_SPLIT_NAMES: dict[str, Split] = {
    "train": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
}


@dataclass(frozen=True)
class HubDataset:
    """Its own splits are kept. A held-out split that it lacks is taken from its training documents, by hash."""

    name: str
    subset: str | None
    """The data set's configuration ("wikitext-103-raw-v1")."""
    split: str | None
    """Read this split alone, and split it by document."""
    revision: str | None
    text_field: str

    def fingerprint(self) -> Any:
        """By name and revision: what the hub changes under an unpinned revision is seen once the cache is emptied."""
        return ["hub-1", self.name, self.subset, self.split, self.revision, self.text_field]

    def documents(self) -> Iterator[Document]:
        loaded = self._load()
        for name, allowed in self._parts(list(loaded)).items():
            for row in loaded[name]:
                text = field_of(row, self.text_field, self.name)
                if text.strip():
                    yield Document(digest(text), text, allowed)

    def _parts(self, names: list[str]) -> dict[str, tuple[Split, ...]]:
        """For each part of the data set that is read, the splits its documents may go to."""
        if self.split is not None:
            if self.split not in names:
                raise InvalidInput(f"corpus {self.name!r}: no split {self.split!r}: {nearest(self.split, names)}")
            return {self.split: SPLITS}
        own: dict[str, Split] = {name: _SPLIT_NAMES[name] for name in names if name in _SPLIT_NAMES}
        if "train" not in own:
            raise InvalidInput(f"corpus {self.name!r}: no split 'train'; name one with split: {', '.join(names)}")
        parts: dict[str, tuple[Split, ...]] = {name: (split,) for name, split in own.items()}
        parts["train"] = ("train", *(split for split in SPLITS if split not in own.values()))
        return parts

    def _load(self) -> Any:
        import datasets

        try:
            return datasets.load_dataset(self.name, self.subset, revision=self.revision)
        except Exception as error:
            reason = str(error).strip().partition("\n")[0].rstrip(".")
            if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
                reason = f"the Hugging Face hub is switched off (HF_HUB_OFFLINE): {reason}"
            line = f"corpus {self.name!r}: not 'stdlib', not a local file, and not a Hugging Face data set: {reason}"
            raise InvalidInput(line) from error
