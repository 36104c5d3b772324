"""The learning curve on disk: one JSON object per line, flushed as it happens."""

import json
from pathlib import Path
from typing import Any

from .atomic import finite, replacing


class Curve:
    """Appends rows to ``path``. A trial that continues at a step drops what was written after it (and a last line cut
    short)."""

    def __init__(self, path: Path, *, resume_at: int = 0):
        rows = [row for row in read_curve(path) if row["step"] <= resume_at]
        with replacing(path) as temporary:
            temporary.write_text("".join(_line(row) for row in rows), encoding="utf-8")
        self._file = path.open("a", encoding="utf-8")

    def append(self, row: dict[str, Any]) -> None:
        self._file.write(_line(row))
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def read_curve(path: Path) -> list[dict[str, Any]]:
    """The rows that are whole; none if there is no file."""
    rows: list[dict[str, Any]] = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break  # the writer died within this line
    return rows


def _line(row: dict[str, Any]) -> str:
    return json.dumps(finite(row), allow_nan=False) + "\n"
