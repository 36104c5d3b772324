"""What a person sees while a sweep runs: a live display on a terminal, plain lines elsewhere. Both go to stderr.

Tune calls from the driver's own loop, so an observer only notes what it is told; rich redraws on its own thread.
"""

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from .jobs import Job, Observer
from .summary import QUALITY

LINE_EVERY = 30.0
"""Seconds between two plain lines of one running trial."""


@contextlib.contextmanager
def progress(console: Console, total: int, done: int) -> Iterator[Observer]:
    """An observer of a sweep of ``total`` trials, ``done`` of which had ended before."""
    if not console.is_terminal:
        yield PlainLines(console, total, done)
        return
    columns = (
        SpinnerColumn(finished_text=" "),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[quality]}", markup=False),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=console, redirect_stdout=False, redirect_stderr=True) as bars:
        yield LiveBars(bars, total, done)


def label(job: Job) -> str:
    return f"{job.trial.name} · {job.trial.task_name}" + (f" · seed {job.trial.seed}" if job.trial.seed else "")


def quality_text(row: Mapping[str, Any]) -> str:
    """The most telling number in a row of the curve or in final metrics: ``accuracy 0.982``, ``loss 2.31``."""
    metric = next((key for key in QUALITY if isinstance(row.get(key), (int, float))), None)
    return f"{metric.rpartition('/')[2].replace('_', ' ')} {row[metric]:.3f}" if metric else ""


def ending(job: Job, record: Mapping[str, Any]) -> str:
    """One line on a trial that has ended."""
    if record["status"] == "finished":
        return f"{label(job)}: {quality_text(record['metrics'])} in {record['seconds']:.0f} s"
    return f"{label(job)}: {record['status'].replace('_', ' ')}: {record['reason']}"


class LiveBars:
    """A bar for the sweep and one for each running trial."""

    def __init__(self, bars: Progress, total: int, done: int):
        self.bars = bars
        self.overall = bars.add_task("all trials", total=total, completed=done, quality="")
        self.running: dict[str, TaskID] = {}

    def started(self, job: Job) -> None:
        if job.id not in self.running:
            steps = job.trial.training.steps
            self.running[job.id] = self.bars.add_task(f"  {label(job)}", total=steps, quality="")

    def reported(self, job: Job, row: Mapping[str, Any]) -> None:
        self.bars.update(self.running[job.id], completed=row.get("step"), quality=quality_text(row))

    def retried(self, job: Job) -> None:
        self._say(f"{label(job)}: its worker died; another continues from the checkpoint", "yellow")

    def ended(self, job: Job, record: Mapping[str, Any]) -> None:
        if (bar := self.running.pop(job.id, None)) is not None:
            self.bars.remove_task(bar)
        self.bars.advance(self.overall)
        self._say(ending(job, record), "" if record["status"] == "finished" else "red")

    def _say(self, line: str, style: str) -> None:
        self.bars.console.print(line, style=style, highlight=False, markup=False)


class PlainLines:
    """A line when a trial starts, dies or ends, and one now and then in between."""

    def __init__(self, console: Console, total: int, done: int):
        self.console, self.total, self.done = console, total, done
        self.said: dict[str, float] = {}

    def started(self, job: Job) -> None:
        self.said[job.id] = time.monotonic()
        self._say(f"{label(job)}: {job.trial.training.steps} steps")

    def reported(self, job: Job, row: Mapping[str, Any]) -> None:
        if time.monotonic() - self.said.get(job.id, 0.0) >= LINE_EVERY:
            self.said[job.id] = time.monotonic()
            self._say(f"{label(job)}: step {row.get('step')}/{job.trial.training.steps}, {quality_text(row)}")

    def retried(self, job: Job) -> None:
        self._say(f"{label(job)}: its worker died; another continues from the checkpoint")

    def ended(self, job: Job, record: Mapping[str, Any]) -> None:
        self.done += 1
        self._say(ending(job, record))

    def _say(self, line: str) -> None:
        self.console.print(f"[{self.done}/{self.total}] {line}", markup=False, highlight=False, soft_wrap=True)
