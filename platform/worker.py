"""What a Ray worker does with one trial: runs it in its folder and passes on what it reports, not too often."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .config import TrialConfig
from .folders import write_record
from .jobs import failed_record

REPORT_EVERY = 0.5
"""Seconds between two reports of one trial: each is a round trip to the driver, for which the trial waits."""

Runner = Callable[..., dict[str, Any]]
"""``run_trial(trial, folder, *, report, threads)``."""


def work(config: Mapping[str, Any], *, runner: Runner | None, threads: int) -> None:
    """Run ``config["job"]``, a trial and its folder. What comes of it is the record in that folder."""
    from ray import tune

    if runner is None:
        from .trial import run_trial as runner
    trial, folder = TrialConfig.from_dict(config["job"]["trial"]), Path(config["job"]["folder"])
    try:
        runner(trial, folder, report=_Reports(), threads=threads)
    except Exception as error:  # the trial's own mistake, not the worker's death: another worker would only repeat it
        write_record(folder, failed_record(trial, " ".join(f"{type(error).__name__}: {error}".split())[:500]))
    tune.report({"row": {}})


class _Reports:
    def __init__(self) -> None:
        self.last = float("-inf")

    def __call__(self, row: Mapping[str, Any]) -> None:
        from ray import tune

        if time.monotonic() - self.last >= REPORT_EVERY:
            tune.report({"row": dict(row)})
            self.last = time.monotonic()
