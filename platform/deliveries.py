"""One thread between the sweep and MLflow: a slow or silent server never holds up a trial.

A record that cannot be delivered waits in its folder; while MLflow does not answer it is asked again every ``PAUSE``
seconds and once more at the end.
"""

import queue
import threading
import time
from pathlib import Path

from .store import StoreDown, connect, one_line
from .tracking import Tracker

PAUSE = 30.0
"""Seconds after a failure before MLflow is asked again."""


class Deliveries:
    """Takes folders with ``put`` and delivers them in order; ``close`` waits for what is under way."""

    def __init__(self, tracker: Tracker):
        self.tracker = tracker
        self.delivered = 0
        self.waiting: list[Path] = []
        """Folders whose records MLflow has not taken; to be read after ``close``."""
        self.reason = ""
        """Why the last of them was not taken."""
        self._asked = -PAUSE
        self._queue: queue.SimpleQueue[Path | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._thread.start()

    def put(self, folder: Path) -> None:
        self._queue.put(folder)

    def close(self) -> None:
        """Deliver what can be delivered, and stop."""
        self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (folder := self._queue.get()) is not None:
            self.waiting.append(folder)
            if time.monotonic() - self._asked >= PAUSE:
                self._deliver()
        if self.waiting:
            self._deliver()

    def _deliver(self) -> None:
        left = []
        for i, folder in enumerate(self.waiting):
            try:
                self.delivered += self.tracker.deliver(folder)
            except Exception as error:  # MLflow's, SQLAlchemy's, a full disk: the record is safe in its folder
                left.append(folder)
                self.reason = one_line(error)
                if not _answers():
                    self._asked = time.monotonic()
                    left += self.waiting[i + 1 :]
                    break
        self.waiting = left


def _answers() -> bool:
    try:
        connect()
    except StoreDown:
        return False
    return True
