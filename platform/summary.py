"""From a sweep's records to what is said of each model: quality on each task, size and speed. Pure functions."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

QUALITY = (
    "test/accuracy",
    "test/bits_per_byte",
    "test/loss",
    "validation/accuracy",
    "validation/bits_per_byte",
    "validation/loss",
    "train/loss",
)
"""What a task is judged by: the first of these that its trials have."""

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Spread:
    """A metric over seeds."""

    mean: float
    least: float
    greatest: float


@dataclass
class ModelSummary:
    """One model of a sweep, at one point of the sweep's axes."""

    name: str
    axes: str = ""
    pattern: str = ""
    records: list[Record] = field(default_factory=list)

    @property
    def title(self) -> str:
        return f"{self.name} {self.axes}".strip()

    def spread(self, metric: str, task: str | None = None) -> Spread | None:
        """A metric, or ``parameters``, over the finished trials (of a task); none if no trial has it."""
        chosen = [
            record for record in self.records if record["status"] == "finished" and task in (None, record["task"])
        ]
        values = [value for record in chosen if (value := metric_value(record, metric)) is not None]
        return Spread(fmean(values), min(values), max(values)) if values else None

    def unfinished(self, task: str) -> list[str]:
        """How the trials of a task ended that did not finish."""
        return [
            record["status"] for record in self.records if record["task"] == task and record["status"] != "finished"
        ]


def metric_value(record: Record, metric: str) -> float | None:
    """A record's metric, or its size by ``parameters`` and ``active_parameters``; none unless it is a finite number."""
    value = record[metric] if metric in ("parameters", "active_parameters") else record["metrics"].get(metric)
    return float(value) if value is not None and math.isfinite(value) else None


def summarize(records: Iterable[Record]) -> list[ModelSummary]:
    """The models of a sweep in the order of their first records."""
    models: dict[tuple[str, str], ModelSummary] = {}
    for record in records:
        axes = record.get("config", {}).get("axes") or {}
        text = ", ".join(f"{key.split('.')[-1]}={value}" for key, value in axes.items())
        model = models.setdefault((record["name"], text), ModelSummary(record["name"], text, record["pattern"]))
        model.records.append(record)
    return list(models.values())


def tasks_of(records: Iterable[Record]) -> list[str]:
    return list(dict.fromkeys(record["task"] for record in records))


def main_quality(records: Sequence[Record], task: str) -> str | None:
    """The metric a task is judged by; none while nothing has finished."""
    have = {
        key
        for record in records
        if record["task"] == task and record["status"] == "finished"
        for key in record["metrics"]
    }
    return next((metric for metric in QUALITY if metric in have), None)


def longest(records: Iterable[Record], stem: str) -> str | None:
    """The metric ``stem/<length>`` with the greatest length that any record has."""
    lengths = {int(key.rpartition("/")[2]) for record in records for key in record["metrics"] if _is_length(key, stem)}
    return f"{stem}/{max(lengths)}" if lengths else None


def counts(records: Iterable[Record]) -> dict[str, int]:
    """How many trials ended in which way."""
    found: dict[str, int] = defaultdict(int)
    for record in records:
        found[record["status"]] += 1
    return dict(found)


def _is_length(key: str, stem: str) -> bool:
    head, _, tail = key.rpartition("/")
    return head == stem and tail.isdecimal()
