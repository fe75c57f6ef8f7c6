"""Whether somebody asked a long run to end: SIGTERM of a service manager, SIGINT of Ctrl-C."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

NUMBERS = (signal.SIGTERM, signal.SIGINT)


class Signals:
    """Whether SIGTERM or SIGINT has come.

    The handler only sets a flag, because the code that it interrupts may hold any lock.
    """

    def __init__(self) -> None:
        self.has_come = False

    def __call__(self) -> bool:
        return self.has_come

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Within the block, the first of the signals is noted, and a second one acts as it did before."""
        # Python lets only the main thread set a signal's handler.
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in NUMBERS}

        def restore() -> None:
            for number, handler in before.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)

        def note(number: int, frame: Any) -> None:
            self.has_come = True
            restore()

        for number in NUMBERS:
            signal.signal(number, note)
        try:
            yield
        finally:
            restore()
