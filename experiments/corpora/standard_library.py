"""The interpreter's own standard library: about ten megabytes of real text that every machine has.

Taken are its .py files. Left out, each for a reason:

- installed packages: not the standard library;
- folders of tests: three times the rest in bytes, much of it tables, and Debian ships Python without them;
- pydoc_data: the printed documentation as one generated file, two thirds of whichever split it fell in;
- `_sysconfigdata*`: written when the interpreter was built, full of that machine's paths;
- exact duplicates, and near duplicates: files of which more than half the distinct lines (those of eight characters or
  more) stand in one file kept before it, in the order of paths. Mostly the generated character maps in encodings/.

A file's split hangs on its path below the library's root, so that an interpreter of another version splits the files
they share alike; the split is fixed, since the lm-eval tasks of lm_tasks/ score the test files.
"""

import os
import sys
import sysconfig
import tokenize
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path, PurePosixPath

from ...architectures import InvalidInput
from ..task import Split
from .document import HELD_OUT_FRACTION, Document, assigned_split

_LEFT_OUT_FOLDERS = {"site-packages", "dist-packages", "test", "tests", "idle_test", "pydoc_data", "__pycache__"}
_LEFT_OUT_FILES = "_sysconfigdata"
_SHORTEST_LINE = 8
_NEAR_DUPLICATE = 0.5


class StandardLibrary:
    """The source called `stdlib`."""

    name = "stdlib"

    def fingerprint(self) -> list[str]:
        return ["stdlib-1", sys.implementation.name, sys.version, str(_root())]

    def documents(self) -> Iterator[Document]:
        yield from _kept(_root())


def held_out_documents() -> list[Document]:
    """The test split: what a model trained on `stdlib` has not seen, in the order of paths."""
    return [d for d in StandardLibrary().documents() if split_of(d) == "test"]


def split_of(document: Document) -> Split:
    """The split of one of the library's files."""
    return assigned_split(document, HELD_OUT_FRACTION, HELD_OUT_FRACTION)


def _root() -> Path:
    root = Path(sysconfig.get_paths()["stdlib"])
    if not (root / "os.py").is_file():
        raise InvalidInput(f"corpus 'stdlib': this interpreter has no sources of its standard library in {root}")
    return root


@lru_cache(maxsize=1)
def _kept(root: Path) -> tuple[Document, ...]:
    """Read once a process."""
    kept: list[Document] = []
    files_with: dict[str, list[int]] = {}
    for path in _paths(root):
        text = _read(root / path)
        lines = {line.strip() for line in text.splitlines() if len(line.strip()) >= _SHORTEST_LINE}
        if not lines:
            continue
        shared = Counter(number for line in lines for number in files_with.get(line, ()))
        if max(shared.values(), default=0) > _NEAR_DUPLICATE * len(lines):
            continue
        for line in lines:
            files_with.setdefault(line, []).append(len(kept))
        kept.append(Document(str(path), text))
    return tuple(kept)


def _paths(root: Path) -> list[PurePosixPath]:
    """Paths below the root, in the order of their parts. Left-out folders are not entered: site-packages is large."""
    found = []
    for folder, below, names in os.walk(root):
        below[:] = [name for name in below if name not in _LEFT_OUT_FOLDERS]
        wanted = (name for name in names if name.endswith(".py") and not name.startswith(_LEFT_OUT_FILES))
        found += [PurePosixPath(Path(folder, name).relative_to(root).as_posix()) for name in wanted]
    return sorted(found, key=lambda path: path.parts)


def _read(path: Path) -> str:
    """The text by the file's own declaration of its encoding; empty if the file contradicts it."""
    try:
        with tokenize.open(path) as file:
            return file.read()
    except (SyntaxError, UnicodeDecodeError):
        return ""
