"""The documents of this folder's tasks, all from the test split of the corpus `stdlib`.

lm-eval loads this file by its path, outside the package, hence the absolute import.
"""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import datasets
from hybridlab.experiments import Document, held_out_documents  # pyright: ignore[reportMissingImports]

CONTEXT_LINES = 16
QUESTIONS_PER_FILE = 12
CHOICES = 4
SHORTEST_LINE = 12
"""Characters, indentation not counted: below it many lines are `return` or a bracket."""


def files(**metadata: Any) -> dict[str, datasets.Dataset]:
    """Each file as `path` and `text`. lm-eval hands over the metadata of all tasks; none of it matters here."""
    return _as_test_split([{"path": d.key, "text": d.text} for d in held_out_documents()])


def likelihood_of_bytes(doc: Mapping[str, str], results: tuple[float]) -> dict[str, tuple[float, int]]:
    """A document's log-likelihood (nats) beside its bytes; lm-eval divides the sums."""
    (log_likelihood,) = results
    weighted = (log_likelihood, len(doc["text"].encode("utf-8")))
    return {"bits_per_byte": weighted, "byte_perplexity": weighted}


def next_lines(**metadata: Any) -> dict[str, datasets.Dataset]:
    """Questions as `path`, `context`, `choices` and the index of the right one, `answer`."""
    return _as_test_split([question for document in held_out_documents() for question in questions(document)])


def questions(document: Document) -> list[dict[str, Any]]:
    """Up to `QUESTIONS_PER_FILE` of a file's lines, each with three others; the same ones on every machine."""
    lines = document.text.splitlines()
    places = sorted(range(CONTEXT_LINES, len(lines)), key=lambda place: _lot(document.key, place))
    asked = (question for place in places if (question := _question(document.key, lines, place)))
    return [question for question, _ in zip(asked, range(QUESTIONS_PER_FILE), strict=False)]


def _question(path: str, lines: list[str], place: int) -> dict[str, Any] | None:
    """The question about one line, or None if it is short or too few lines could be mistaken for it."""
    right, context = lines[place], lines[place - CONTEXT_LINES : place]
    if len(right.strip()) < SHORTEST_LINE or right in context:
        return None
    others = {line for line in _alike(right, lines) if line not in context}
    wrong = sorted(others, key=lambda line: _lot(path, place, line))[: CHOICES - 1]
    if len(wrong) < CHOICES - 1:
        return None
    choices = sorted([right, *wrong], key=lambda line: _lot(path, place, "order", line))
    return {"path": path, "context": "\n".join(context) + "\n", "choices": choices, "answer": choices.index(right)}


def _alike(line: str, lines: list[str]) -> Iterator[str]:
    """Other lines as deep as this one and long enough."""
    for other in lines:
        if other != line and len(other.strip()) >= SHORTEST_LINE and _depth(other) == _depth(line):
            yield other


def _depth(line: str) -> int:
    return len(line) - len(line.lstrip())


def _lot(*parts: object) -> str:
    """Draws lots without a generator: equal on every machine and version of Python."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _as_test_split(rows: list[dict[str, Any]]) -> dict[str, datasets.Dataset]:
    return {"test": datasets.Dataset.from_list(rows)}
