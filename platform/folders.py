"""Where records lie: ``runs/<sweep>/<trial id>/``, and beside the sweeps MLflow's own files.

The folder of a trial is written before anything else is told of it, its ``record.json`` last and atomically: a trial is
done when that file exists, whoever asks and whatever died meanwhile.
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..architectures import InvalidInput
from .atomic import write_json

RECORD = "record.json"


def runs_folder() -> Path:
    """The folder of all records: ``$HYBRIDLAB_RUNS``, else ``runs`` in the working directory (absolute)."""
    return Path(os.environ.get("HYBRIDLAB_RUNS") or "runs").absolute()


def sweep_folder(sweep: str) -> Path:
    return runs_folder() / sweep


def trial_folders(sweep: str) -> list[Path]:
    """The folders of a sweep's trials that have ended, in order of their ids."""
    return sorted(path.parent for path in sweep_folder(sweep).glob(f"*/{RECORD}"))


def recorded_sweeps() -> list[str]:
    """The sweeps of which any trial has ended, sorted."""
    return sorted({path.parent.parent.name for path in runs_folder().glob(f"*/*/{RECORD}")})


def read_record(folder: Path) -> dict[str, Any] | None:
    """The record in a trial's folder; none while the trial has not ended."""
    try:
        return json.loads((folder / RECORD).read_text())
    except FileNotFoundError:
        return None


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Write a trial's record, all of it or nothing."""
    write_json(folder / RECORD, record)


@contextlib.contextmanager
def sweep_lock(sweep: str) -> Iterator[None]:
    """Hold a sweep for this process; the lock goes with the process, so a killed one leaves nothing to clean.

    Raises:
        InvalidInput: another process runs this sweep.
    """
    folder = sweep_folder(sweep)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read().strip() or "unknown"
            raise InvalidInput(f"sweep {sweep!r} is already run by process {owner}; wait for it or stop it") from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
