"""The records of a sweep, read back from MLflow: what the command line and the dashboard show."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..architectures import InvalidInput, nearest
from .config import SelectConfig
from .folders import trial_folders
from .run_encoding import run_to_record
from .store import connect, default_store_is_empty, shown, tracking_uri
from .sweep import select
from .tracking import DELIVERED, DELIVERED_AT, ORDER, SELECT, SWEEP, all_runs

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.entities import Experiment
    from mlflow.tracking import MlflowClient

COLUMNS = ("id", "name", "pattern", "task", "seed", "status", "reason", "parameters", "active_parameters")


def list_sweeps() -> list[str]:
    """The names of all sweeps with a record in MLflow, sorted.

    Raises:
        StoreDown: MLflow does not answer.
    """
    if default_store_is_empty():
        return []
    return sorted(found.name for found in connect().search_experiments() if SWEEP in found.tags)


def load_records(sweep: str) -> list[dict[str, Any]]:
    """One record per trial of the sweep, failed ones too, in the order of the sweep.

    ``metrics`` holds the final metrics and, of each curve that has none (``train/loss``), the last value.

    Raises:
        InvalidInput: MLflow knows no such sweep.
        StoreDown: MLflow does not answer.
    """
    client, found = _find(sweep)
    runs = [run for run in all_runs(client, found.experiment_id) if DELIVERED in run.data.tags]
    runs.sort(key=lambda run: float(run.data.tags[DELIVERED_AT]))
    newest = {run.data.tags["id"]: run for run in runs}
    placed = []
    for run in newest.values():
        tags = {key: value for key, value in run.data.tags.items() if key not in (DELIVERED, DELIVERED_AT, ORDER)}
        place = float(run.data.tags.get(ORDER, "inf"))
        placed.append((place, run.info.start_time, run_to_record(tags, run.data.params, run.data.metrics)))
    return [record for _, _, record in sorted(placed, key=lambda item: (*item[:2], item[2]["id"]))]


def load_frame(sweep: str) -> "pd.DataFrame":
    """One row per trial: ``COLUMNS``, ``axes`` where the sweep has axes, ``selected`` where it tunes some of them (true
    at the values chosen on validation), and one column per metric (NaN where a trial has none)."""
    import pandas as pd

    records = load_records(sweep)
    rows = [{key: record.get(key) for key in COLUMNS} | axes_column(record) | record["metrics"] for record in records]
    if rule := load_selection(sweep):
        chosen = {record["id"] for record in select(records, rule)}
        rows = [row | {"selected": row["id"] in chosen} for row in rows]
    lead = [*COLUMNS, *(key for key in ("axes", "selected") if any(key in row for row in rows))]
    return pd.DataFrame(rows, columns=[*lead, *sorted({key for row in rows for key in row} - set(lead))])


def load_selection(sweep: str) -> SelectConfig | None:
    """The rule by which the sweep's tuned settings are chosen; none if it tunes nothing. Raises as ``load_records``."""
    rule = json.loads(_find(sweep)[1].tags.get(SELECT, "null"))
    return SelectConfig(**rule) if rule else None


def axes_column(record: Mapping[str, Any]) -> dict[str, str]:
    """A trial's values of the sweep's axes as one readable text; nothing where the sweep has no axes."""
    axes = record.get("config", {}).get("axes") or {}
    return {"axes": ", ".join(f"{key.split('.')[-1]}={value}" for key, value in axes.items())} if axes else {}


def _find(sweep: str) -> "tuple[MlflowClient, Experiment]":
    client = None if default_store_is_empty() else connect()
    found = client.get_experiment_by_name(sweep) if client else None
    if client is None or found is None or SWEEP not in found.tags:
        raise InvalidInput(_unknown(sweep))
    return client, found


def _unknown(sweep: str) -> str:
    where = shown(tracking_uri())
    if waiting := len(trial_folders(sweep)):
        return f"MLflow at {where} has no sweep {sweep!r}, but {waiting} of its records wait: hybridlab sync"
    known = list_sweeps()
    right = nearest(sweep, known) if known else "run one: hybridlab sweep FILE"
    return f"no sweep {sweep!r} in MLflow at {where}; {right}"
