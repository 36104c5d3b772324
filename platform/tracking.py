"""The writer of MLflow: a trial's folder goes in, one run comes out.

- Exactly one process writes for a sweep: the one that runs or syncs it. Trials write only their own folders.
- A record is delivered once however often it is offered: a run counts when its tag ``delivered`` holds the hash of the
  record, and that tag is set last. What a crash left half delivered is delivered anew and the half removed.
- A record that changed (a trial was retried) replaces the old run, which is removed only when the new one is complete.
- What MLflow cannot take now stays in its folder, and the next sweep or ``hybridlab sync`` delivers it.
"""

import contextlib
import fcntl
import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..architectures import InvalidInput
from .curve import read_curve
from .folders import RECORD, read_record, runs_folder
from .run_encoding import Point, config_to_params, curve_to_points, metrics_to_points, record_to_tags
from .store import artifact_location, connect, shown, tracking_uri

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

DELIVERED = "delivered"
"""Tag: the hash of the record a run holds; a run without it is not to be read."""
DELIVERED_AT = "delivered_at"
"""Tag: seconds since 1970; of two complete runs of one trial the later counts."""
ORDER = "order"
"""Tag: the trial's place in its sweep."""
SWEEP = "hybridlab.sweep"
"""Tag of the experiments that are sweeps."""
SELECT = "hybridlab.select"
"""Tag of those: in JSON, the rule by which tuned settings are chosen, or null."""
FILES = ("record.json", "trial.json", "curve.jsonl")
LEFT_OUT = "training.safetensors"
"""Of the checkpoint, what only a continuing trial needs."""


class Tracker:
    """Delivers the trials of one sweep, whose experiment is made if need be.

    Args:
        tags: for the experiment.
        order: trial ids in the sweep's order, in which they are read back; without it, by their start.

    Raises:
        StoreDown: MLflow does not answer.
    """

    def __init__(self, sweep: str, tags: Mapping[str, str] | None = None, order: Sequence[str] = ()):
        self.order = {trial: index for index, trial in enumerate(order)}
        self.client: MlflowClient = connect()
        self.experiment = _experiment(self.client, sweep)
        for key, value in (tags or {}).items():
            self.client.set_experiment_tag(self.experiment, key, value)
        self.runs: dict[str, list[Run]] = {}
        for run in all_runs(self.client, self.experiment):
            self.runs.setdefault(run.data.tags.get("id", ""), []).append(run)

    def holds(self, folder: Path) -> bool:
        """Whether the record in a trial's folder, as it is now, is in MLflow."""
        return any(run.data.tags.get(DELIVERED) == _digest(folder) for run in self.runs.get(folder.name, []))

    def deliver(self, folder: Path) -> bool:
        """Bring the record in ``folder`` to MLflow; false when it is there already."""
        record = read_record(folder)
        if record is None or self.holds(folder):
            return False
        with _only_writer():
            run = self._write(folder, record)
            for old in self.runs.get(folder.name, []):
                self.client.delete_run(old.info.run_id)
        self.runs[folder.name] = [run]
        return True

    def _write(self, folder: Path, record: dict[str, Any]) -> "Run":
        start = _milliseconds(record.get("started"))
        end = start + int(1000 * (record.get("seconds") or 0))
        tags = {"id": record["id"]} | ({ORDER: str(self.order[record["id"]])} if record["id"] in self.order else {})
        run = self.client.create_run(self.experiment, run_name=record["name"], start_time=start, tags=tags)
        run_id = run.info.run_id
        self._log_text(run_id, record)
        curve = curve_to_points(read_curve(folder / "curve.jsonl"))
        last = max((step for _, _, step in curve), default=0)
        self._log_points(run_id, curve, start)
        self._log_points(run_id, metrics_to_points(record["metrics"], last), end + 1)
        for name in FILES:
            if (folder / name).exists():
                self.client.log_artifact(run_id, str(folder / name))
        for path in sorted(folder.glob("checkpoint/*")):
            if path.name != LEFT_OUT and not path.name.startswith("."):
                self.client.log_artifact(run_id, str(path), "checkpoint")
        self.client.set_terminated(run_id, "FINISHED" if record["status"] == "finished" else "FAILED", end)
        self.client.set_tag(run_id, DELIVERED_AT, repr(time.time()))
        self.client.set_tag(run_id, DELIVERED, _digest(folder))
        return self.client.get_run(run_id)

    def _log_text(self, run_id: str, record: dict[str, Any]) -> None:
        from mlflow.entities import Param, RunTag

        params = [Param(key, value) for key, value in config_to_params(record.get("config") or {}).items()]
        tags = [RunTag(key, value) for key, value in record_to_tags(record).items()]
        for start in range(0, max(len(params), len(tags)), 100):  # MLflow takes 100 of each at a time
            self.client.log_batch(
                run_id, params=params[start : start + 100], tags=tags[start : start + 100], synchronous=True
            )

    def _log_points(self, run_id: str, points: list[Point], timestamp: int) -> None:
        from mlflow.entities import Metric

        metrics = [Metric(key, value, timestamp, step) for key, value, step in points]
        for start in range(0, len(metrics), 1000):  # and 1000 points
            self.client.log_batch(run_id, metrics=metrics[start : start + 1000], synchronous=True)


def all_runs(client: "MlflowClient", experiment: str) -> "list[Run]":
    """Every run of an experiment, half-delivered ones too: one call for each thousand."""
    page = client.search_runs([experiment], max_results=1000)
    runs = list(page)
    while page.token:
        page = client.search_runs([experiment], max_results=1000, page_token=page.token)
        runs += page
    return runs


def _experiment(client: "MlflowClient", sweep: str) -> str:
    found = client.get_experiment_by_name(sweep)
    if found is None:
        return client.create_experiment(sweep, artifact_location(sweep), tags={SWEEP: "1"})
    if found.lifecycle_stage == "deleted":
        where = shown(tracking_uri())
        raise InvalidInput(
            f"experiment {sweep!r} was deleted in MLflow at {where}; restore it, or name the sweep otherwise"
        )
    if SWEEP not in found.tags:
        client.set_experiment_tag(found.experiment_id, SWEEP, "1")
    return found.experiment_id


@contextlib.contextmanager
def _only_writer() -> Iterator[None]:
    """Two sweeps of one runs folder take turns: writers that meet in SQLite lose data."""
    with (runs_folder() / ".mlflow.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _digest(folder: Path) -> str:
    return hashlib.sha256((folder / RECORD).read_bytes()).hexdigest()[:16]


def _milliseconds(started: Any) -> int:
    seconds = datetime.fromisoformat(started).timestamp() if isinstance(started, str) else started or time.time()
    return int(1000 * seconds)
