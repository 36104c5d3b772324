"""The file of a benchmark, read back to go on with a run that was cut short."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

Name = tuple[str, str, bool]
"""A row's operation, its shape, and whether it has no backward pass."""
UNASKED = "not measured"
"""A row's peer where peers were left out; None where it has none."""


class NotResumable(ValueError):
    """A file that a run cannot go on with: one line that says why."""


def name_of(row: dict[str, Any]) -> Name:
    """A measured row's name."""
    return row["op"], row["shape"], row.get("forward_backward_ms") is None


def read(path: Path, machine: dict[str, str], *, peers: bool) -> dict[Name, dict[str, Any]]:
    """The file's rows by name, but for those that failed and, with `peers`, those without; none where there is no file.

    Raises NotResumable where it is no benchmark's, or of another machine.
    """
    if not path.exists():
        return {}
    try:
        result = json.loads(path.read_text())
        rows = {name_of(row): row for row in result["rows"]}
        of = {name: result[name] for name in machine}
    except (ValueError, KeyError, TypeError) as error:
        raise NotResumable(f"{path} is not a result of `hybridlab bench kernels`: {error}") from error
    other = [f"{name} {of[name]}, here {here}" for name, here in machine.items() if of[name] != here]
    if other:
        raise NotResumable(f"{path} was measured elsewhere ({'; '.join(other)}): name another file")
    return {n: row for n, row in rows.items() if "failed" not in row and not (peers and row.get("peer") == UNASKED)}
