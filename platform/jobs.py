"""A trial and its place in the runs folder; what of a sweep is done and what is due."""

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from ..architectures import ModelConfig, bill
from .config import TrialConfig
from .folders import RECORD, read_record, sweep_folder
from .trial_id import trial_id


@dataclass(frozen=True)
class Job:
    """One trial of a sweep that may or may not have ended."""

    id: str
    trial: TrialConfig
    folder: Path
    record: Mapping[str, Any] | None = None
    """How it ended, if it has."""


class Observer(Protocol):
    """Who is told what happens to a sweep's jobs, in the driver, as it happens."""

    def started(self, job: Job) -> None: ...
    def reported(self, job: Job, row: Mapping[str, Any]) -> None: ...
    def retried(self, job: Job) -> None: ...
    def ended(self, job: Job, record: Mapping[str, Any]) -> None: ...


def plan(sweep: str, trials: Sequence[TrialConfig]) -> list[Job]:
    """The sweep's trials with their folders and, where they have ended, their records. Reads only."""
    jobs = []
    for trial in trials:
        folder = sweep_folder(sweep) / trial_id(trial)
        jobs.append(Job(folder.name, trial, folder, read_record(folder)))
    return jobs


def is_due(job: Job, retry_failed: bool = False) -> bool:
    """Whether a sweep runs this job now."""
    return job.record is None or (retry_failed and job.record["status"] != "finished")


def reopen(job: Job) -> None:
    """Take back the record of a job that is tried again. A diverged one starts over; others continue from their
    checkpoint."""
    if job.record is not None:
        if job.record["status"] == "diverged":
            shutil.rmtree(job.folder / "checkpoint", ignore_errors=True)
        (job.folder / RECORD).unlink(missing_ok=True)


def failed_record(trial: TrialConfig, reason: str, seconds: float = 0.0) -> dict[str, Any]:
    """The record of a trial that could not write its own."""
    costs = bill(ModelConfig.from_dict(trial.model))
    return {
        "id": trial_id(trial),
        "name": trial.name,
        "pattern": trial.model["pattern"],
        "task": trial.task_name,
        "seed": trial.seed,
        "parameters": costs.parameters,
        "active_parameters": costs.active_parameters,
        "mismatch": trial.mismatch,
        "status": "failed",
        "reason": reason,
        "metrics": {},
        "config": trial.to_dict(),
        "environment": {},
        "started": datetime.fromtimestamp(time.time() - seconds, UTC).isoformat(timespec="seconds"),
        "seconds": seconds,
    }
