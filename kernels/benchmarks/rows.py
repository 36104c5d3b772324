"""All rows of the benchmark. A new family of operations is one more module here, with its rows in `ROWS`."""

from __future__ import annotations

from . import delta, delta_vector, gated, loss, others
from .row import Row

FAMILIES = (gated, delta, delta_vector, others, loss)
ROWS: tuple[Row, ...] = tuple(row for family in FAMILIES for row in family.ROWS)


def op_names() -> list[str]:
    """The operations that have rows, sorted."""
    return sorted({row.op for row in ROWS})
