"""The frontier as a picture in a file: one panel per task, each model at its mean over seeds, what is dominated dimmed.

``.html`` is one self-contained page that can be zoomed and hovered (Plotly); ``.svg``, ``.png`` and ``.pdf`` are for
documents (Matplotlib, which needs no browser). Both draw the same panels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..architectures import InvalidInput, nearest
from .frontier import pareto, smaller_is_better
from .summary import ModelSummary, Record, Spread, longest, main_quality, metric_value, summarize, tasks_of

FORMATS = (".html", ".svg", ".png", ".pdf")
ACCENT, DIM = "#C2185B", "#868E99"


@dataclass(frozen=True)
class Mark:
    """One model in a panel."""

    title: str
    pattern: str
    x: Spread
    y: Spread
    on_frontier: bool


@dataclass(frozen=True)
class Panel:
    """One task."""

    task: str
    x: str
    y: str
    marks: list[Mark]
    left_out: int
    """Trials of the task that did not finish, or have no value on an axis."""

    @property
    def title(self) -> str:
        return self.task + (f" ({self.left_out} trials left out)" if self.left_out else "")

    @property
    def staircase(self) -> list[tuple[float, float]]:
        """The frontier's models from left to right."""
        return sorted((mark.x.mean, mark.y.mean) for mark in self.marks if mark.on_frontier)

    @property
    def log_x(self) -> bool:
        """A logarithmic axis wherever its values allow one: costs span orders of magnitude."""
        return bool(self.marks) and all(mark.x.least > 0 for mark in self.marks)


def panels(records: Sequence[Record], x: str | None = None, y: str | None = None) -> list[Panel]:
    """What is drawn, task by task.

    Args:
        x: the cost metric; none takes the cache bytes at the longest length measured.
        y: the quality metric; none takes what each task is judged by.

    Raises:
        InvalidInput: no finished trial has the metric.
    """
    x = _known(records, x or longest(records, "efficiency/state_bytes") or "parameters")
    drawn = []
    for task in tasks_of(records):
        quality = _known(records, y) if y else main_quality(records, task)
        if quality is None:
            continue
        ours = [record for record in records if record["task"] == task]
        marks = _marks(summarize(ours), x, quality)
        if marks or not y:
            drawn.append(Panel(task, x, quality, marks, sum(not _is_drawn(record, x, quality) for record in ours)))
    if not any(panel.marks for panel in drawn):
        raise InvalidInput(
            f"nothing to draw: none of {len(records)} trials has finished with {x} and {y or 'a quality'}"
        )
    return drawn


def write_picture(
    records: Sequence[Record], path: Path, title: str, x: str | None = None, y: str | None = None
) -> None:
    """Draw ``panels`` into ``path``; its ending says how.

    Raises:
        InvalidInput: an unknown ending or metric, or nothing to draw.
    """
    check_format(path)
    drawn = panels(records, x, y)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".html":
        from .picture_html import write_html

        write_html(drawn, path, title)
    else:
        from .picture_static import write_static

        write_static(drawn, path, title)


def check_format(path: Path) -> None:
    """Refuse a file whose ending names no format."""
    if path.suffix not in FORMATS:
        raise InvalidInput(f"{str(path)!r}: a picture ends in one of: {', '.join(FORMATS)}")


def axis_title(metric: str) -> str:
    """``efficiency/state_bytes/1024`` as ``state bytes at 1,024 tokens (smaller is better)``."""
    head, _, tail = metric.removeprefix("efficiency/").replace("_", " ").rpartition("/")
    title = f"{head} at {int(tail):,} tokens" if tail.isdecimal() else f"{head} {tail}".strip()
    return f"{title} ({'smaller' if smaller_is_better(metric) else 'larger'} is better)"


def _marks(models: list[ModelSummary], x: str, y: str) -> list[Mark]:
    placed = []
    for model in models:
        drawn = ModelSummary(model.name, model.axes, model.pattern, [r for r in model.records if _is_drawn(r, x, y)])
        across, up = drawn.spread(x), drawn.spread(y)
        if across and up:
            placed.append((model, across, up))
    points = [(across.mean, up.mean) for _, across, up in placed]
    best = pareto(points, [not smaller_is_better(x), not smaller_is_better(y)])
    return [Mark(model.title, model.pattern, across, up, i in best) for i, (model, across, up) in enumerate(placed)]


def _is_drawn(record: Record, x: str, y: str) -> bool:
    return record["status"] == "finished" and all(metric_value(record, metric) is not None for metric in (x, y))


def _known(records: Sequence[Record], metric: str) -> str:
    known = {"parameters", "active_parameters"} | {key for record in records for key in record["metrics"]}
    if metric not in known:
        raise InvalidInput(f"no trial has the metric {metric!r}; {nearest(metric, known)}")
    return metric
