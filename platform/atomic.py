"""Files that are whole or absent: written beside their place, flushed to disk, then renamed onto it."""

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path in the same folder that becomes ``path`` when the block ends, and disappears if it raises:
    what was at ``path`` stays until then, also when the disk is full."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, plain: Any) -> None:
    """Write strict JSON atomically; NaN and infinities become null, which every reader understands."""
    with replacing(path) as temporary:
        temporary.write_text(
            json.dumps(finite(plain), indent=1, allow_nan=False, ensure_ascii=False) + "\n", encoding="utf-8"
        )


def finite(plain: Any) -> Any:
    """The same value with None for every float that is not finite."""
    if isinstance(plain, dict):
        return {key: finite(value) for key, value in plain.items()}
    if isinstance(plain, (list, tuple)):
        return [finite(value) for value in plain]
    return None if isinstance(plain, float) and not math.isfinite(plain) else plain
