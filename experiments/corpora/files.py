"""Local files as a source: plain text, JSON lines, Parquet; a file, a folder or a glob."""

import glob
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ...architectures import InvalidInput
from .document import Document, digest

Kind = Literal["text", "json", "parquet"]

_KINDS: dict[str, Kind] = {".jsonl": "json", ".ndjson": "json", ".parquet": "parquet"}
_FOLDER_SUFFIXES = {".txt", ".md", *_KINDS}


def kind_of(path: Path) -> Kind:
    """How a file is read: by its suffix (before .gz or .zst); what is neither JSON lines nor Parquet is text."""
    suffixes = [s for s in path.suffixes if s not in (".gz", ".zst")]
    return _KINDS.get(suffixes[-1] if suffixes else "", "text")


def looks_local(source: str) -> bool:
    """Whether a source is meant as a path: it exists, has a glob's signs, begins like a path or ends like a file."""
    path = Path(source).expanduser()
    return (
        source.startswith((".", "/", "~"))
        or any(sign in source for sign in "*?[")
        or path.exists()
        or path.suffix in _FOLDER_SUFFIXES
    )


@dataclass(frozen=True)
class LocalFiles:
    """Files of one kind."""

    name: str
    root: Path
    """Keys are paths below it: a corpus that moves keeps its split."""
    paths: tuple[Path, ...]
    kind: Kind
    text_field: str
    separator: str | None
    """Cuts a text file into documents; None: a file is a document."""

    def fingerprint(self) -> Any:
        stats = [(str(p.relative_to(self.root)), p.stat().st_size, p.stat().st_mtime_ns) for p in self.paths]
        return ["files-1", str(self.root), stats, self.kind, self.text_field, self.separator]

    def documents(self) -> Iterator[Document]:
        if self.kind != "text":
            yield from self._rows()
            return
        seen: set[str] = set()
        for path in self.paths:
            text = self._read(path)
            for number, part in enumerate(text.split(self.separator) if self.separator else [text]):
                if part.strip() and (key := digest(part)) not in seen:
                    seen.add(key)
                    yield Document(f"{path.relative_to(self.root).as_posix()}#{number}", part)

    def _read(self, path: Path) -> str:
        try:
            return path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise InvalidInput(f"corpus {self.name!r}: {path} is not UTF-8 text (byte {error.start})") from error

    def _rows(self) -> Iterator[Document]:
        """Streamed, so that no second copy of the data is written."""
        import datasets

        files = [str(path) for path in self.paths]
        try:
            rows = datasets.load_dataset(self.kind, data_files=files, split="train", streaming=True)
            for row in rows:
                text = field_of(row, self.text_field, self.name)
                if text.strip():
                    yield Document(digest(text), text)
        except InvalidInput:
            raise
        except Exception as error:
            reason = str(error.__cause__ or error).strip().partition("\n")[0]
            raise InvalidInput(f"corpus {self.name!r}: cannot be read as {self.kind}: {reason}") from error


def field_of(row: Any, text_field: str, name: str) -> str:
    """The text of a row; `InvalidInput` lists the fields there are if this one is missing or no text."""
    if text_field not in row:
        raise InvalidInput(f"corpus {name!r}: no field {text_field!r}; text_field is one of: {', '.join(sorted(row))}")
    if not isinstance(row[text_field], str):
        raise InvalidInput(f"corpus {name!r}: field {text_field!r} is {type(row[text_field]).__name__}, should be text")
    return row[text_field]


def local_files(source: str, text_field: str, separator: str | None) -> LocalFiles:
    """The files of `source` (a file, a folder, a glob); `InvalidInput` if there are none, or several kinds of them."""
    path = Path(source).expanduser()
    if path.is_file():
        root, paths = path.parent, [path]
    elif path.is_dir():
        root, paths = path, sorted(p for p in path.rglob("*") if p.is_file() and _plain_suffix(p) in _FOLDER_SUFFIXES)
        if not paths:
            raise InvalidInput(f"corpus {source!r}: no {', '.join(sorted(_FOLDER_SUFFIXES))} file in this folder")
    else:
        paths = sorted(p for match in glob.glob(str(path), recursive=True) if (p := Path(match)).is_file())
        root = _fixed_part(path)
        if not paths:
            raise InvalidInput(f"corpus {source!r}: no such file, folder or files of that pattern")
    kinds = sorted({kind_of(p) for p in paths})
    if len(kinds) > 1:
        raise InvalidInput(f"corpus {source!r}: files of different kinds ({', '.join(kinds)}); name one by a pattern")
    return LocalFiles(source, root, tuple(paths), kind_of(paths[0]), text_field, separator)


def _plain_suffix(path: Path) -> str:
    return path.with_suffix("").suffix if path.suffix in (".gz", ".zst") else path.suffix


def _fixed_part(pattern: Path) -> Path:
    """The folder above the first part of a glob that has one of its signs."""
    parts = []
    for part in pattern.parts[:-1]:
        if any(sign in part for sign in "*?["):
            break
        parts.append(part)
    return Path(*parts) if parts else Path()
