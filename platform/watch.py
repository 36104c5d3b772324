"""Tune's callback: what Tune says about its trials, as what happened to ours. Imports Ray."""

import re
import time
from pathlib import Path
from typing import Any

from ray import tune

from .deliveries import Deliveries
from .folders import read_record, write_record
from .jobs import Job, Observer, failed_record


class Watch(tune.Callback):
    """Tells the observer, sees to it that every trial that ends has a record, and passes the record on to MLflow."""

    def __init__(self, jobs: list[Job], observer: Observer, deliveries: Deliveries):
        self.jobs = {str(job.folder): job for job in jobs}
        self.observer, self.deliveries = observer, deliveries
        self.begun: dict[str, float] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return (
            tune.Callback,
            (),
        )  # Tune keeps a pickle of the experiment to restore it from; we restore from the trials' folders

    def on_trial_start(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        job = self._job(trial)
        self.begun.setdefault(job.id, time.time())
        self.observer.started(job)

    def on_trial_result(self, iteration: int, trials: list, trial: Any, result: dict, **info: Any) -> None:
        if result["row"]:
            self.observer.reported(self._job(trial), result["row"])

    def on_trial_recover(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self.observer.retried(self._job(trial))

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self._ended(
            self._job(trial), "it left no record: is the runs folder one that every node sees at the same path?"
        )

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self._ended(self._job(trial), f"its worker died {trial.num_failures} times: {_reason(trial)}")

    def _job(self, trial: Any) -> Job:
        return self.jobs[trial.config["job"]["folder"]]

    def _ended(self, job: Job, otherwise: str) -> None:
        """Take the record that the trial has written, or write one that says why there is none."""
        record = read_record(Path(job.folder))
        if record is None:
            record = failed_record(job.trial, otherwise, time.time() - self.begun.get(job.id, time.time()))
            write_record(job.folder, record)
        self.deliveries.put(job.folder)
        self.observer.ended(job, record)


def _reason(trial: Any) -> str:
    """What Ray says of a worker's death, in one line: an exception's last line, or the detail among Ray's advice."""
    path = trial.error_file  # in Tune's own copy: the one that ``trial.get_error()`` reads may be a death behind
    lines = Path(path).read_text().strip().splitlines() if path and Path(path).exists() else []
    said = lines[-1].strip() if lines else "no reason given"
    detail = re.search(r"Worker exit detail: (.*?\.)(?: Some common causes|$)", said)
    return (detail[1] if detail else said)[:300]
