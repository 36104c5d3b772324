"""A record as an MLflow run, and back: pure functions, each the other's inverse.

MLflow knows tags and parameters (short strings), metrics (finite numbers by step) and files. So

- text fields of the record (id, status, pattern, …) become tags as they stand, its other fields tags in JSON;
- the configuration becomes parameters under dotted keys, each value in JSON unless it is a string that cannot be taken
  for JSON;
- strings longer than MLflow takes are cut into ``key``, ``key:1``, ``key:2``, …;
- metrics keep their names; characters MLflow refuses are written ``:hex:``. NaN and infinity come back as they were.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

TEXT = ("id", "name", "pattern", "task", "status", "reason")
"""Fields of a record that are text, or absent."""
LONGEST = 5000
"""Characters per tag or parameter: every MLflow server since 2.0 takes this many."""
CURVE_POINTS = 500
"""Points of one curve that go to MLflow; the whole curve is the run's ``curve.jsonl``."""
LARGEST = 1.7976931348623157e308
"""What MLflow's database stores in place of infinity."""

Point = tuple[str, float, int]
"""Metric name, value, step."""


def record_to_tags(record: Mapping[str, Any]) -> dict[str, str]:
    """Everything in a record but its configuration and metrics."""
    rest = {key: value for key, value in record.items() if key not in (*TEXT, "config", "metrics")}
    text = {key: str(record[key]) for key in TEXT if record.get(key) is not None}
    return _cut(text | {key: json.dumps(value) for key, value in rest.items()})


def config_to_params(config: Mapping[str, Any]) -> dict[str, str]:
    return _cut({key: _to_text(value) for key, value in _leaves(config)})


def metrics_to_points(metrics: Mapping[str, Any], step: int) -> list[Point]:
    """The final metrics as points at ``step``; metrics without a number (None) are left out."""
    return [(_escape(key), float(value), step) for key, value in metrics.items() if _is_number(value)]


def curve_to_points(rows: Iterable[Mapping[str, Any]]) -> list[Point]:
    """A training curve as points, at most ``CURVE_POINTS`` of each metric and always the last.

    A row's metrics are the names with a room (``train/loss``); bare names (``step``, ``seconds``) are its axes.
    """
    curves: dict[str, list[Point]] = {}
    for row in rows:
        for key, value in row.items():
            if "/" in key and _is_number(value):
                curves.setdefault(key, []).append((_escape(key), float(value), int(row["step"])))
    return [point for points in curves.values() for point in _thin(points)]


def run_to_record(tags: Mapping[str, str], params: Mapping[str, str], metrics: Mapping[str, float]) -> dict[str, Any]:
    """The record that ``record_to_tags``, ``config_to_params`` and ``metrics_to_points`` took apart."""
    whole = _join({key: value for key, value in tags.items() if not key.startswith("mlflow.")})
    record: dict[str, Any] = {key: whole.pop(key, None) for key in TEXT}
    record |= {key: _from_text(value) for key, value in whole.items()}
    record["metrics"] = {_unescape(key): _from_store(value) for key, value in metrics.items()}
    record["config"] = _nest({key: _from_text(value) for key, value in _join(params).items()})
    return record


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in tree.items():
        name = prefix + _escape(key).replace(".", ":2e:")
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{name}.")
        else:
            yield name, value


def _nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, last = (_unescape(part) for part in path.split("."))
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return tree


def _to_text(value: Any) -> str:
    return value if isinstance(value, str) and _from_text(value) == value and value else json.dumps(value)


def _from_text(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _cut(texts: Mapping[str, str]) -> dict[str, str]:
    pieces: dict[str, str] = {}
    for key, text in texts.items():
        pieces[key] = text[:LONGEST]
        for i, start in enumerate(range(LONGEST, len(text), LONGEST), start=1):
            pieces[f"{key}:{i}"] = text[start : start + LONGEST]
    return pieces


def _join(pieces: Mapping[str, str]) -> dict[str, str]:
    whole: dict[str, str] = {}
    for key, text in pieces.items():
        if key.count(":") % 2 == 0:  # an escaped character has two colons, the number of a piece one
            i = 1
            while f"{key}:{i}" in pieces:
                text += pieces[f"{key}:{i}"]
                i += 1
            whole[key] = text
    return whole


def _escape(key: str) -> str:
    return re.sub(r"[^A-Za-z0-9_\-. /]", lambda match: f":{ord(match[0]):x}:", key)


def _unescape(key: str) -> str:
    return re.sub(r":([0-9a-f]+):", lambda match: chr(int(match[1], 16)), key)


def _thin(points: list[Point]) -> list[Point]:
    stride = math.ceil(len(points) / CURVE_POINTS)
    return points[:-1:stride][: CURVE_POINTS - 1] + points[-1:]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _from_store(value: float) -> float:
    return math.copysign(math.inf, value) if abs(value) >= LARGEST else value
