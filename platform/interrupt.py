"""Ctrl-C that cannot get lost.

Python raises KeyboardInterrupt wherever the main thread happens to be. In a destructor or in a callback from C, of
which Ray has many, it is printed or dropped, and the program goes on.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Interrupt:
    """Whether Ctrl-C was pressed."""

    def __init__(self) -> None:
        self.asked = False

    def check(self) -> None:
        """Raises KeyboardInterrupt, again, if it was."""
        if self.asked:
            raise KeyboardInterrupt


@contextmanager
def noticed() -> Iterator[Interrupt]:
    """Within it Ctrl-C raises KeyboardInterrupt at once, and at each later `check`. Where another thread runs or
    somebody else handles the signal, nothing is changed."""
    interrupt = Interrupt()
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before is not signal.default_int_handler:
        yield interrupt
        return

    def handle(number: int, frame: Any) -> None:
        interrupt.asked = True
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, handle)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, before)
