"""Tasks by their options, each built once per process: workers that run many trials read a corpus once."""

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from ..experiments import Task, task_config


def canonical(plain: Any) -> str:
    """The one JSON text of a plain value: equal values give equal text. NaN and infinity have no stable form and
    raise ValueError."""
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def build_task(options: Mapping[str, Any]) -> Task:
    """The task for ``{"kind": ..., option: value}``; raises InvalidInput for unknown options and missing data."""
    return _build(canonical(task_config(options).to_dict()))


@lru_cache(maxsize=8)
def _build(text: str) -> Task:
    return task_config(json.loads(text)).build()
